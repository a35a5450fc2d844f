"""`nexa env`: make, list, check and remove the environments that backends run in."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nexa.environments.requirements import Needs
    from nexa.environments.store import EnvironmentStore, NamedEnvironment


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Environments in which backends run apart from one another.

    A recipe takes one by `environment: NAME`, or by itself where the current one does not fit its backend.
    """


@command.command()
@click.argument("backend")
@click.option("--name", help="Name of the environment. Default: the backend's.")
@click.option("--python", help="Version of Python (3.12), or its path. Default: the first one found that fits.")
@click.option("--with", "extra", multiple=True, metavar="REQUIREMENT", help="Put this in, too; repeatable.")
@click.option("--find-links", multiple=True, metavar="FOLDER", help="Take packages from here, too; repeatable.")
@click.option("--no-index", is_flag=True, help="Take packages from --find-links alone.")
@click.option("--builder", type=click.Choice(["uv", "pip"]), help="Default: uv where it is, else pip.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def create(
    backend: str,
    name: str | None,
    python: str | None,
    extra: Sequence[str],
    find_links: Sequence[str],
    no_index: bool,
    builder: str | None,
    as_json: bool,
) -> int:
    """Make the environment that BACKEND needs, once.

    Its packages are locked with their hashes; the same request finds the same environment, at once. A build
    that ends early leaves none.
    """
    from nexa.cli.output import print_json
    from nexa.environments.build import create as build
    from nexa.environments.builders import Sources
    from nexa.environments.requirements import parse

    for requirement in extra:
        parse(requirement, "--with")
    begun = time.monotonic()
    named = build(
        _store(),
        _needs(backend),
        backend=backend,
        name=name,
        python=python,
        extra=extra,
        sources=Sources(find_links=find_links, index=not no_index),
        builder=builder,
        progress=_say,
    )
    if as_json:
        print_json(_document(named))
    else:
        built = named.environment
        assert built is not None
        click.echo(f"{named.name}: Python {built.python}, {len(built.packages)} packages, {built.digest[:12]}")
        click.echo(
            f"  in {built.path}\n  ready after {time.monotonic() - begun:.1f} s; use it: environment={named.name}"
        )
    return 0


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def list_environments(as_json: bool) -> int:
    """List environments, and whether they still have what their backend needs."""
    from nexa.cli.output import print_json, table
    from nexa.units import clock

    store = _store()
    rows = [(named, _state(named)) for named in store.names()]
    if as_json:
        print_json([{**_document(named), "state": state} for named, state in rows])
    elif not rows:
        click.echo(f"no environments in {store.root} yet; make one: nexa env create BACKEND")
    else:
        table(
            ["NAME", "BACKEND", "PYTHON", "PACKAGES", "DIGEST", "BUILT", "STATE"],
            [
                (
                    named.name,
                    named.backend,
                    built.python if built else "",
                    len(built.packages) if built else "",
                    named.digest[:12],
                    clock(built.built_at) if built else "",
                    state,
                )
                for named, state in rows
                for built in (named.environment,)
            ],
            right=["PACKAGES"],
        )
    return 0


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def show(name: str, as_json: bool) -> int:
    """Show one environment: what was asked for, and every package it has."""
    from nexa.cli.output import print_json, table

    named = _store().require(name)
    if as_json:
        print_json({**_document(named), "state": _state(named)})
        return 0
    built = named.environment
    click.echo(f"{named.name}, for backend {named.backend}: {_state(named)}")
    click.echo(f"  digest    {named.digest}")
    click.echo(f"  asked     {', '.join(named.requirements) or 'nothing'}")
    if built is not None:
        click.echo(f"  python    {built.python} on {built.platform}, {built.interpreter}")
        click.echo(f"  built by  {built.built_by}")
        table(["PACKAGE", "VERSION"], sorted(built.versions.items()))
    return 0


@command.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def verify(names: Sequence[str]) -> int:
    """Read every file of environments and name what was changed by hand; without NAME, of all.

    Exit code 1 when something was.
    """
    from nexa.environments.verify import changes
    from nexa.text import sanitize

    store = _store()
    damaged = 0
    for named in [store.require(name) for name in names] or store.names():
        found = ["it was not built to its end, or was removed"]
        if named.environment is not None:
            found = list(changes(named.environment))
        damaged += bool(found)
        click.echo(f"{named.name}: {'as it was built' if not found else f'{len(found)} change(s)'}")
        for change in found:
            click.echo(f"  {sanitize(change)}")
    if damaged:
        click.echo("to build one anew: nexa env remove NAME, then nexa env create BACKEND --name NAME", err=True)
    return 1 if damaged else 0


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--force", is_flag=True, help="Remove one, too, in which a run may be working.")
def remove(names: Sequence[str], force: bool) -> int:
    """Remove environments; one that has another name too stays under that."""
    from nexa.environments.claims import live_users
    from nexa.errors import UserError

    store = _store()
    for name in names:
        users = [] if force else live_users(store.root, store.require(name).digest)
        if users:
            raise UserError(
                f"{', '.join(users)} may be working in the environment {name}",
                hint=f"stop it first: nexa stop --wait {users[0]}; or: nexa env remove --force {name}",
            )
        gone = store.remove(name)
        click.echo(f"removed {name}" + ("" if gone else "; its packages stay, under their other name"))
    return 0


@command.command()
@click.option("--clean", is_flag=True, help="Remove what builds that never ended and runs of old have left.")
def doctor(clean: bool) -> int:
    """Say what is wrong with environments, what is left over, and which backends can't share one.

    Exit code 1 when an environment can't be used.
    """
    from nexa.environments.conflicts import conflicts
    from nexa.text import sanitize

    store = _store()
    click.echo(f"environments in {store.root}")
    broken = 0
    for named in store.names():
        state = _state(named)
        broken += state != "ready"
        click.echo(f"  {named.name}: {sanitize(state)}")
    _leftovers(store, clean=clean)
    found = conflicts(store)
    click.echo("backends that can't share an environment" if found else "no two backends contradict each other")
    for conflict in found:
        click.echo(f"  {sanitize(conflict)}")
    return 1 if broken else 0


def _leftovers(store: EnvironmentStore, *, clean: bool) -> None:
    """Say what nobody needs any more, and remove it where that is asked for."""
    import shutil

    from nexa.environments.claims import drop_claims, unneeded_code
    from nexa.environments.store import remove_folder

    outcome = "removed" if clean else "--clean removes it"
    for folder in list(store.leftovers()):
        if clean:
            remove_folder(folder)
        click.echo(f"  {folder.name[:12]}: left by a build that never ended; {outcome}")
    for folder in list(unneeded_code(store.root, drop_claims(store.root))):
        if clean:
            shutil.rmtree(folder, ignore_errors=True)
        click.echo(f"  {folder.name[:12]}: workers' code that no run needs any more; {outcome}")


def _store() -> EnvironmentStore:
    from nexa.environments.store import EnvironmentStore
    from nexa.settings import get_settings

    return EnvironmentStore(get_settings().environments_dir)


def _needs(backend: str) -> Needs:
    """What a backend asks for. Raises PluginError for one that is not installed."""
    from nexa.environments.requirements import needs_of
    from nexa.plugins import get_host

    host = get_host()
    return needs_of(host.spec("backend", backend), host.provider_of("backend", backend).distribution)


def _state(named: NamedEnvironment) -> str:
    """Whether an environment can be used by its backend as that is installed now, in words."""
    from nexa.environments.requirements import misfits
    from nexa.errors import NexaError

    if named.environment is None:
        return f"not built to its end, or removed: nexa env create {named.backend} --name {named.name}"
    if not named.environment.interpreter.exists():
        return f"its Python is gone: nexa env remove {named.name}"
    try:
        reasons = misfits(_needs(named.backend), named.environment.versions, named.environment.python)
    except NexaError as error:
        return error.message
    return "; ".join(reasons) or "ready"


def _document(named: NamedEnvironment) -> dict[str, Any]:
    built = named.environment
    return {
        "name": named.name,
        "backend": named.backend,
        "digest": named.digest,
        "requirements": list(named.requirements),
        "environment": built,
    }


def _say(text: str) -> None:
    """Progress: one line that redraws itself on a terminal, all lines elsewhere; on stderr."""
    import shutil

    from nexa.text import sanitize_line

    if not text:
        return
    if sys.stderr.isatty():
        width = max(20, shutil.get_terminal_size().columns - 1)
        click.echo(f"\r\x1b[2K{sanitize_line(text)[:width]}", err=True, nl=False)
    else:
        click.echo(sanitize_line(text), err=True)
