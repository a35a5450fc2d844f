"""Run events: append-only JSON lines, one writer a file; the writer is standard library only."""
