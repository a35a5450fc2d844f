"""Environments of workers: what a backend needs, environments built for it, and which one a run takes."""
