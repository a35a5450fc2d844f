"""The command-line page says what the commands say."""

from __future__ import annotations

from pathlib import Path

from nexa.cli.main import COMMANDS
from nexa.cli.reference import markdown

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == markdown(), "remake it: python -m nexa.cli.reference > docs/reference/cli.md"


def test_every_command_is_on_the_page() -> None:
    page = markdown()
    assert [name for name in COMMANDS if f"### `nexa {name}`\n" not in page] == []
    assert "#### `nexa recipe show`" in page
    assert "| `--dry-run [true\\|false]` |" in page
