"""Compares what a terminal shows with an SVG kept beside the tests, and says which lines differ."""

from __future__ import annotations

import difflib
import os
import re
import sys
import time
from html import unescape
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "snapshots"
REMAKE = "NEXA_REMAKE_SNAPSHOTS"
"""Environment variable; set to 1, a test writes its snapshot in place of comparing."""

_PYTHON = (3, 11)
_SECONDS = 60.0
_SETTLED_TIMES = 6
_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
# What differs between two runs of a test, in as many cells as it takes there.
_VARYING = (
    (re.compile(r"terminal-\d+"), "terminal"),
    (re.compile(r"\b20\d\d-\d\d-\d\d(&#160;|T)\d\d:\d\d:\d\d"), r"2027-01-15\g<1>08:00:00"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "0" * 64),
    (re.compile(r"@font-face \{.*?\}", re.DOTALL), ""),
)
_TEXT = re.compile(r'<text class="[^"]*-r(\d+)" x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>')
_RULE = re.compile(r"\.[\w-]*-r(\d+) \{([^}]*)\}")


def skip_reason() -> str:
    """Why snapshots can't be compared here: another Python or Textual draws other cells; "" where they can."""
    pinned = re.search(r"^textual==(\S+)", _CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    if sys.version_info[:2] != _PYTHON:
        return f"snapshots are drawn with Python {'.'.join(map(str, _PYTHON))}"
    if version("textual") != pinned[1]:
        return f"snapshots are drawn with Textual {pinned[1]} of constraints.txt, here is {version('textual')}"
    return ""


async def compare(app: Any, pilot: Any, name: str) -> None:
    """Assert that the app comes to show what `snapshots/NAME.svg` does.

    Threads read in the background, so the picture may need a moment. One that still differs is left below
    the folder `failed`.
    """
    path, failed = FOLDER / f"{name}.svg", FOLDER / "failed" / f"{name}.svg"
    kept = path.read_text(encoding="utf-8") if path.is_file() else ""
    if os.environ.get(REMAKE) == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(await _settled(app, pilot), encoding="utf-8")
        return
    deadline = time.monotonic() + _SECONDS
    while (shown := _normalised(app.export_screenshot(title="nexa"))) != kept and time.monotonic() < deadline:
        await pilot.pause(0.2)
    assert path.is_file(), f"there is no {path.name}; {REMAKE}=1 makes it"
    if kept == shown:
        failed.unlink(missing_ok=True)
        return
    failed.parent.mkdir(exist_ok=True)
    failed.write_text(shown, encoding="utf-8")
    lines = list(difflib.unified_diff(_lines(kept), _lines(shown), "kept", "shown", n=0, lineterm=""))
    words = "\n".join(lines) or "backgrounds differ"
    raise AssertionError(f"{name} differs; look at {failed}; where it is right, {REMAKE}=1 keeps it\n{words}")


async def _settled(app: Any, pilot: Any) -> str:
    """The picture once it has not changed for some reads of the screen: one on the way to it would be kept in vain."""
    shown, since = "", 0
    while since < _SETTLED_TIMES:
        before, shown = shown, _normalised(app.export_screenshot(title="nexa"))
        since = since + 1 if shown == before else 0
        await pilot.pause(0.3)
    return shown


def _normalised(svg: str) -> str:
    for pattern, replacement in _VARYING:
        svg = pattern.sub(replacement, svg)
    return svg.rstrip() + "\n"


def _lines(svg: str) -> list[str]:
    """The rows of text in an SVG, each piece with its style."""
    styles = dict(_RULE.findall(svg))
    rows: dict[float, list[str]] = {}
    for style, _, y, text in _TEXT.findall(svg):
        rows.setdefault(float(y), []).append(f"{unescape(text)}  [{styles.get(style, '').strip()}]")
    return [piece for row in rows.values() for piece in row]
