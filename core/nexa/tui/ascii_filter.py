"""ASCII only: whatever is drawn, by Nexa or by Textual, reaches the terminal in 7-bit characters."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_STAND_INS = {
    **dict.fromkeys("─━╌╍┄┅┈┉═╴╶╸╺", "-"),
    **dict.fromkeys("│┃┆┇┊┋║╎╏▏▕", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╯╰┏┓┗┛┣┫┳┻╋╔╗╚╝╠╣╦╩╬", "+"),
    **dict.fromkeys("█▉▊▋▌▐▍▎▇▆▅▄▃▂▀▔▁■▪", "#"),
    **dict.fromkeys("▶▸→❯›»", ">"),
    **dict.fromkeys("◀◂←‹«", "<"),
    **dict.fromkeys("▲▴↑△", "^"),
    **dict.fromkeys("▼▾↓▽", "v"),
    **dict.fromkeys("●◉•·∙", "*"),
    **dict.fromkeys("○◌◯◔◑◐◕", "o"),
    **dict.fromkeys("◆◇", "*"),
    **dict.fromkeys("✓✔", "+"),
    **dict.fromkeys("✗✘✕×", "x"),
    **dict.fromkeys("–—−", "-"),
    **dict.fromkeys("“”", '"'),
    **dict.fromkeys("‘’", "'"),
    "…": ".",
    "÷": "/",
    "±": "~",
    "★": "*",
    "░": ".",
    "▒": ":",
    "▓": "#",
}
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_BRAILLE = range(0x2800, 0x2900)
# Index: how many dots of the cell are drawn.
_DENSITY = " ..::*####"


@lru_cache(4096)
def _stand_in(match: str) -> str:
    """ASCII of the same width as one character."""
    code = ord(match)
    if code in _BRAILLE:
        return _DENSITY[(code - 0x2800).bit_count()]
    if match in _STAND_INS:
        return _STAND_INS[match]
    plain = unicodedata.normalize("NFKD", match).encode("ascii", "ignore").decode("ascii")
    width = cell_len(match)
    return plain if len(plain) == width and plain.isprintable() else "?" * width


def to_ascii(text: str) -> str:
    """Replace every character outside ASCII by stand-ins that take as many cells."""
    return _NOT_ASCII.sub(lambda match: _stand_in(match.group()), text)


class AsciiFilter(LineFilter):
    """Rewrites rendered lines."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the segments in ASCII."""
        return [
            segment if segment.text.isascii() else Segment(to_ascii(segment.text), segment.style, segment.control)
            for segment in segments
        ]
