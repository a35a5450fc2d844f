"""The training loop and its parts. `engine.py` reads top to bottom; the others are what it calls."""
