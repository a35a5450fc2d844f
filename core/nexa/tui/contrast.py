"""Text that can be read where the cursor is: colours chosen for a theme's background may vanish on the cursor's."""

from __future__ import annotations

from functools import lru_cache

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

_LEAST_RATIO = 3.0
"""Least contrast of large or bold text, WCAG 2.2, 1.4.3; a terminal's user chooses the size."""

_Triplet = tuple[int, int, int]


def readable(strip: Strip, foreground: Style) -> Strip:
    """The strip with `foreground`'s colour in place of each that can't be told from what is behind it."""
    segments = []
    for segment in strip:
        style = segment.style
        if style is not None and _is_lost(style):
            segment = Segment(segment.text, style + Style(color=foreground.color), segment.control)
        segments.append(segment)
    return Strip(segments, strip.cell_length)


def _is_lost(style: Style) -> bool:
    if style.color is None or style.bgcolor is None:
        return False
    colours = (style.color.triplet, style.bgcolor.triplet)
    return None not in colours and contrast_ratio(*colours) < _LEAST_RATIO


@lru_cache(maxsize=256)
def contrast_ratio(one: _Triplet, other: _Triplet) -> float:
    """How well two colours of 0–255 can be told apart, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: _Triplet) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.2)."""
    shares = [value / 255 for value in colour]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
