"""The reference pages are what the code says today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pages import ROOT

REFERENCE = ROOT / "docs" / "reference"


def test_command_line_page_is_current() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "nexa.cli.reference"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert made == (REFERENCE / "cli.md").read_text(encoding="utf-8"), "run `make docs`"


def test_recipe_page_is_current(tmp_path: Path) -> None:
    made = tmp_path / "recipe.md"
    subprocess.run([sys.executable, "-m", "nexa.recipe.reference", str(made)], timeout=60, check=True)
    assert made.read_text(encoding="utf-8") == (REFERENCE / "recipe.md").read_text(encoding="utf-8"), "run `make docs`"


def test_terminal_ui_page_is_current() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "nexa.tui.reference"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert made == (REFERENCE / "tui.md").read_text(encoding="utf-8"), "run `make docs`"


def test_contracts_page_is_current() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "nexa.scaffold.reference"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert made == (REFERENCE / "contracts.md").read_text(encoding="utf-8"), "run `make docs`"
