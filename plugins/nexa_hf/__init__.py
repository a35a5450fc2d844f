"""Training with transformers.Trainer and TRL behind Nexa's recipes, runs and checkpoints; imports nothing heavy."""
