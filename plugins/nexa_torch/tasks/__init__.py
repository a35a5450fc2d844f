"""Tasks: what is trained, and how one batch becomes a loss. `base.py` is the contract."""
