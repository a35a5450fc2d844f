"""Readers of what the UI shows: run lists, metrics, logs, meters. No Textual; clocks are handed in."""
