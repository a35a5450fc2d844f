"""Sweeps: many runs of one recipe that differ in some of its fields."""
