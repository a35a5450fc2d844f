"""The project's Markdown pages, taken apart: fenced blocks, commands in them, links and headings."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/**/*.md"), *ROOT.glob("plugins/*/*.md")]
)
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block: where it starts, its language and its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command that a page tells the reader to type."""

    block: Block
    text: str

    @property
    def words(self) -> list[str]:
        """The command as a shell splits it, without comments."""
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.block}: {self.text}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's fenced blocks in these languages, all without any."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in _FENCE.finditer(text)
        if not languages or found[1] in languages
    ]


def commands() -> list[Command]:
    """Every command on every page: lines after `$ ` in console blocks, all lines of sh blocks."""
    found = []
    for page in PAGES:
        for block in blocks(page, "console", "sh"):
            for line in block.text.replace("\\\n", " ").splitlines():
                prompted, is_console = line.startswith("$ "), block.language == "console"
                text = line[2:] if prompted else line
                if (prompted or not is_console) and text.strip() and not text.startswith("#"):
                    found.append(Command(block, text))
    return found


def links(page: Path) -> list[str]:
    """Targets of the page's links and pictures, those in code left out."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8"))))


def anchors(page: Path) -> set[str]:
    """Anchors of the page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
