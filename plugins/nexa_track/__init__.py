"""Observers that forward run events to experiment trackers."""
