"""Scheduler for this machine: a detached supervisor that outlives the terminal."""
