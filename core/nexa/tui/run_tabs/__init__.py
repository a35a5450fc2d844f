"""The tabs of the Run screen; each takes a `RunSnapshot` and shows its part."""
