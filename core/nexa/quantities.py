"""Durations and sizes as people write them in recipes: "12h", "1d 6h", "2-00:00:00", "64G". Standard library only."""

from __future__ import annotations

import re

_HOURS, _MINUTES, _REST = r"( ?\d{1,6}h)?", r"( ?\d{1,6}m)?", r"( ?\d{1,9}s)?"
DURATION = "|".join(
    (
        r"^(\d{1,6}-)?\d{1,4}:[0-5]\d:[0-5]\d$",
        rf"^\d{{1,6}}d{_HOURS}{_MINUTES}{_REST}$",
        rf"^\d{{1,6}}h{_MINUTES}{_REST}$",
        rf"^\d{{1,6}}m{_REST}$",
        r"^\d{1,9}s$",
    )
)
MEMORY = r"^\d{1,9}(\.\d{1,3})?[KMGT](iB|B)?$"

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d+):(\d+)")
_PARTS = re.compile(r"(\d+)([dhms])")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def seconds_of(duration: str) -> int:
    """Seconds of a text that `DURATION` matches: days, hours, minutes and seconds, or [DAYS-]HOURS:MM:SS."""
    clock = _CLOCK.fullmatch(duration)
    if clock is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return sum(int(number) * _SECONDS[unit] for number, unit in _PARTS.findall(duration))


def bytes_of(memory: str) -> int:
    """Bytes of a text that `MEMORY` matches; K, M, G and T are powers of 1024, as schedulers count."""
    number = memory.rstrip("iB")
    return int(float(number[:-1]) * _BYTES[number[-1]])
