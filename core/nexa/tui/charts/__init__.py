"""Charts: reading and decimating curves, how they are looked at, and drawing them."""
