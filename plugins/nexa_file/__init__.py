"""Artifact store in a folder: content-verified, immutable checkpoints on any file system."""
