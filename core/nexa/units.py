"""Figures as people read them: durations, ages, sizes, losses."""

from __future__ import annotations

import time


def duration(seconds: float | None) -> str:
    """ "8 s", "3m 20s", "2h 05m", "4d 03h"; "" for None."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def age(moment: float | None, *, now: float | None = None) -> str:
    """Time since `moment` (unix seconds) in its largest unit: "12s", "5m", "3h", "9d"; "" for None."""
    if moment is None:
        return ""
    seconds = max(0.0, (time.time() if now is None else now) - moment)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def clock(moment: float | None) -> str:
    """Unix seconds as local date and time; "" for None."""
    return "" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def size(number: float | None) -> str:
    """Bytes with a decimal unit: "712 B", "1.4 GB"; "" for None."""
    if number is None:
        return ""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def figure(value: float | None) -> str:
    """A metric with four significant digits: "2.345", "1.2e-05", "81920"; "" for None."""
    if value is None:
        return ""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def steps(step: int | None, total: int | None) -> str:
    """ "12/100", "12" without a known total, "" before the first step."""
    if step is None:
        return ""
    return str(step) if total is None else f"{step}/{total}"
