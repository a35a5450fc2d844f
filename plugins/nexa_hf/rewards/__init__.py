"""Rewards that a program can verify: right answer, format, length, valid JSON."""
