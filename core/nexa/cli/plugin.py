"""`nexa plugin new`: a package for a plugin of your own, that passes its tests from the start."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def command() -> None:
    """Make a plugin package."""


@command.command("new")
@click.argument("name")
@click.option(
    "--kind",
    required=True,
    metavar="KIND",
    help="backend, scheduler, distiller, artifact-store, observer, reward or task.",
)
@click.option(
    "--dir", "parent", type=click.Path(path_type=Path), default=Path(), help="Folder to make it in. Default: here."
)
def new(name: str, kind: str, parent: Path) -> None:
    """Write a small, whole plugin NAME into a new folder nexa-NAME.

    The package installs, is listed and works; its tests are the contract tests that Nexa's own plugins pass. Then
    replace what it does, part by part.

    \b
    nexa plugin new my-trainer --kind backend
    nexa plugin new lake --kind artifact-store --dir ~/code
    """
    from nexa.scaffold.create import create_package

    folder = create_package(name, kind, parent)
    click.echo(f"wrote {folder}")
    click.echo(f"  cd {folder}\n  pip install -e '.[test]'\n  nexa plugins {folder.name}\n  pytest")
