"""Callbacks: what happens around the training step. `base.py` is the contract, with the order of calls."""
