"""The command-line page covers every command."""

from __future__ import annotations

from nexa.cli.main import COMMANDS
from nexa.cli.reference import markdown


def test_every_command_is_on_the_page() -> None:
    page = markdown()
    assert [name for name in COMMANDS if f"### `nexa {name}`\n" not in page] == []
    assert "#### `nexa recipe show`" in page
    assert "| `--dry-run [true\\|false]` |" in page
