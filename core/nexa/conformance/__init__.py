"""Whether a backend does what it says: its settings under mutation, and its training against written-down figures."""
