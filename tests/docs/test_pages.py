"""What the pages say can be typed, linked to, imported and validated really can be."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest
from pages import PAGES, ROOT, Command, anchors, blocks, commands, links

from nexa.cli.main import command as nexa_command

OTHER_PROGRAMS = {
    *("cd", "export", "git", "pip", "python", "python3", "source", "torchrun"),
    *(".venv/bin/pip", ".venv/bin/python"),
}
QUICK = re.compile(
    r"nexa( --help| --version| doctor| plugins| recipe (list|show|validate|schema)\b.*| runs| artifacts list"
    r"| launch quickstart --explain| launch quickstart --dry-run)?"
)
"""Commands that need no run and end within seconds; they are executed."""


def nexa_words(command: Command) -> list[str] | None:
    """The arguments of a `nexa` command, None for another program."""
    words = command.words
    program = words[0] if words else ""
    return words[1:] if program in ("nexa", ".venv/bin/nexa") else None


@pytest.mark.parametrize("command", commands(), ids=str)
def test_command_parses(command: Command) -> None:
    arguments = nexa_words(command)
    if arguments is None:
        program, *rest = command.words
        if program == "make":
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            targets = [word for word in rest if "=" not in word]
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), command
        else:
            assert program in OTHER_PROGRAMS, f"{command}: say how a reader gets {program!r}"
        return
    group: click.Command = nexa_command
    context = click.Context(nexa_command, info_name="nexa")
    while isinstance(group, click.Group) and arguments and not arguments[0].startswith("-"):
        name, found, arguments = group.resolve_command(context, arguments)
        assert found is not None, f"{command}: there is no command {name!r}"
        group = found
    if "--help" not in arguments:
        group.make_context(group.name, list(arguments), parent=context)


@pytest.mark.parametrize(
    "text", sorted({c.text for c in commands() if QUICK.fullmatch(c.text.removeprefix(".venv/bin/"))})
)
def test_quick_command_runs(text: str, tmp_path: Path) -> None:
    arguments = text.removeprefix(".venv/bin/").split()[1:]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEXA_")}
    done = subprocess.run(
        [sys.executable, "-m", "nexa.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert linked.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(linked), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_use_names_that_exist(page: Path) -> None:
    # Packages that the page itself builds are imported by its own test.
    own = set(re.findall(r"^`src/(nexa_\w+)/", page.read_text(encoding="utf-8"), re.MULTILINE))
    for block in blocks(page, "python"):
        tree = ast.parse(textwrap.dedent(block.text))
        for node in ast.walk(tree):
            package = (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else ""
            if isinstance(node, ast.ImportFrom) and node.module and package.startswith("nexa") and package not in own:
                module = __import__(node.module, fromlist=[alias.name for alias in node.names])
                assert all(hasattr(module, alias.name) for alias in node.names), f"{block}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nexa":
                import nexa

                assert hasattr(nexa, node.attr), f"{block}: nexa.{node.attr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_recipes_on_pages_are_valid(page: Path, tmp_path: Path) -> None:
    from nexa.recipe.load import load_recipe

    # A method or backend that the page's own plugin registers is known where it is installed, as its test does.
    own = re.findall(r'(?:TaskSpec|BackendSpec)\(\s*name="(\w+)"', page.read_text(encoding="utf-8"))
    for block in blocks(page, "yaml"):
        whole = re.search(r"^(?:method|extends):", block.text, re.MULTILINE)
        named = re.findall(r"^(?:method|backend): *(\S+)", block.text, re.MULTILINE)
        if whole and not set(named) & set(own):
            recipe = tmp_path / f"line-{block.line}.yaml"
            recipe.write_text(block.text, encoding="utf-8")
            load_recipe(recipe)


def test_every_page_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    missing = [str(page) for page in PAGES if page.is_relative_to(ROOT / "docs") and page not in {index, *linked}]
    assert not missing
