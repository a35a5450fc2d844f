"""`nexa artifacts`: what the store holds, whether it is whole, where it lies, and what may go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from nexa.artifacts import ArtifactStore, Damage, StoredArtifact

# Longer than any lineage section but the list of installed packages.
_MAX_LEAVES = 40
_REFERENCE = "NAME is an artifact's name, a run id or the start of one, or `latest`."


def _store_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--store", "uri", metavar="URI", help="Store to use instead of the one in the settings: a folder or a URI."
    )(function)


def _json_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(function)


@click.group()
def command() -> None:
    """List, verify and clean up checkpoints and other artifacts."""


@command.command("list")
@click.argument("prefix", default="")
@_store_option
@_json_option
def list_artifacts(prefix: str, uri: str | None, as_json: bool) -> None:
    """List artifacts in name order; with PREFIX, only those in that folder, such as checkpoints/RUN_ID.

    Only manifests are read: `nexa artifacts verify` checks the files.
    """
    from nexa import units
    from nexa.cli.output import print_json, table
    from nexa.stores import open_store

    artifacts = open_store(uri).list(prefix.strip("/"))
    if as_json:
        print_json([_record(artifact) for artifact in artifacts])
    elif not artifacts:
        click.echo("no artifacts" + (f" under {prefix!r}" if prefix else ""), err=True)
    else:
        rows = [
            (
                artifact.name,
                artifact.meta.kind,
                units.size(artifact.meta.bytes),
                artifact.meta.created_at[:19].replace("T", " "),
                ", ".join(_remarks(artifact)),
            )
            for artifact in artifacts
        ]
        table(("NAME", "KIND", "SIZE", "CREATED (UTC)", ""), rows, right=("SIZE",))


@command.command(epilog=_REFERENCE)
@click.argument("name", required=True)
@_store_option
@_json_option
def show(name: str, uri: str | None, as_json: bool) -> None:
    """Show what an artifact is: metrics, files, and everything it came from."""
    from nexa.cli.output import print_json
    from nexa.stores import open_store

    store = open_store(uri)
    artifact = _find(store, name)
    manifest = store.manifest(artifact.name)
    if as_json:
        print_json({**manifest, "uri": artifact.meta.uri, "pinned": artifact.pinned})
    else:
        _print_artifact(artifact, manifest)


@command.command(epilog=_REFERENCE)
@click.argument("name", nargs=-1)
@_store_option
@_json_option
@click.pass_context
def verify(ctx: click.Context, name: tuple[str, ...], uri: str | None, as_json: bool) -> None:
    """Hash every file and compare it with the manifest; exit code 1 when anything differs.

    A run id stands for all its checkpoints; without NAME, every artifact is verified.
    """
    from nexa.cli.output import print_json
    from nexa.stores import matching_artifacts, open_store

    store = open_store(uri)
    chosen = [found for each in name for found in matching_artifacts(store, each)] if name else store.list()
    report = {artifact.name: list(store.verify(artifact.name)) for artifact in chosen}
    if as_json:
        print_json([{"name": each, "whole": not damages, "damages": damages} for each, damages in report.items()])
    else:
        _print_verdicts(chosen, report)
    if any(report.values()):
        ctx.exit(1)


@command.command(epilog=_REFERENCE)
@click.argument("name", required=True)
@_store_option
def path(name: str, uri: str | None) -> None:
    """Verify an artifact and print its folder, for use in other commands."""
    from nexa.stores import find_verified, open_store

    store = open_store(uri)
    click.echo(str(store.fetch(find_verified(store, name, warn=_warn).name)))


@command.command(epilog=_REFERENCE)
@click.argument("name", required=True)
@click.option("--remove", is_flag=True, help="Stop protecting it.")
@_store_option
def pin(name: str, remove: bool, uri: str | None) -> None:
    """Protect an artifact from `nexa artifacts gc`."""
    from nexa.stores import open_store

    store = open_store(uri)
    found = _find(store, name).name
    store.pin(found, pinned=not remove)
    click.echo(f"{found} is {'no longer ' if remove else ''}pinned")


@command.command(epilog=_REFERENCE)
@click.argument("name", nargs=-1)
@click.option("--keep-last", type=click.IntRange(min=1), help="Of each run named, or of all, keep this many newest.")
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@_store_option
@_json_option
def gc(name: tuple[str, ...], keep_last: int | None, dry_run: bool, uri: str | None, as_json: bool) -> None:
    """Remove the artifacts named, and what killed commits left behind.

    Never removed: pinned artifacts, what other artifacts were made from, and each run's newest
    checkpoint that verifies. Without NAME and --keep-last, no artifact is removed.
    """
    from nexa.cli.output import print_json
    from nexa.stores import matching_artifacts, open_store

    store = open_store(uri)
    if name:
        chosen = [found for each in name for found in matching_artifacts(store, each)]
    else:
        chosen = list(store.list("checkpoints")) if keep_last else []
    names = [artifact.name for artifact in chosen]
    candidates = _beyond_newest(names, keep_last) if keep_last else names
    removed = list(store.collect(candidates, dry_run=dry_run))
    kept = sorted(set(candidates) - set(removed))
    if as_json:
        print_json({"removed": removed, "protected": kept, "dry_run": dry_run})
        return
    for each in removed:
        click.echo(f"{'would remove' if dry_run else 'removed'}  {each}")
    for each in kept:
        click.echo(f"protected  {each}", err=True)
    if not candidates:
        click.echo("no artifact to remove" if dry_run else "no artifact to remove; litter is cleared", err=True)


def _find(store: ArtifactStore, reference: str) -> StoredArtifact:
    """The artifact of that name, as it is; for a run or "latest", the newest that verifies."""
    from nexa.stores import find_verified, matching_artifacts

    for artifact in matching_artifacts(store, reference):
        if artifact.name == reference:
            return artifact
    return find_verified(store, reference, warn=_warn)


def _beyond_newest(names: Sequence[str], count: int) -> list[str]:
    """The names but the last `count` of each folder, in name order."""
    folders: dict[str, list[str]] = {}
    for name in sorted(names):
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    return [name for held in folders.values() for name in held[:-count]]


def _remarks(artifact: StoredArtifact) -> Iterator[str]:
    if artifact.pinned:
        yield "pinned"
    if artifact.damage:
        yield f"damaged: {artifact.damage}"


def _record(artifact: StoredArtifact) -> dict[str, Any]:
    """An artifact as one flat JSON object."""
    from dataclasses import asdict

    return {
        "name": artifact.name,
        **asdict(artifact.meta),
        "pinned": artifact.pinned,
        "damage": artifact.damage,
    }


def _print_artifact(artifact: StoredArtifact, manifest: Mapping[str, Any]) -> None:
    """Print a manifest for people: identity, metrics, origins, files."""
    from nexa import units
    from nexa.cli.output import table
    from nexa.text import sanitize

    meta = artifact.meta
    fields = {
        "kind": meta.kind,
        "created": meta.created_at,
        "size": f"{units.size(meta.bytes)} in {len(manifest['files'])} files",
        "hash": meta.hash,
        "uri": meta.uri,
        "pinned": "yes" if artifact.pinned else "no",
        "inputs": ", ".join(meta.inputs),
        **{f"label {key}": value for key, value in meta.labels.items()},
        **dict(_leaves(manifest.get("metrics"), "metrics")),
        **dict(_leaves(manifest.get("lineage"), "lineage")),
    }
    shown = {key: sanitize(str(value)) for key, value in fields.items() if value not in ("", None)}
    width = max(map(len, shown))
    click.echo(artifact.name)
    for key, value in shown.items():
        click.echo(f"  {sanitize(key):<{width}}  {value}")
    click.echo()
    rows = [(name, units.size(entry["bytes"]), entry["sha256"]) for name, entry in manifest["files"].items()]
    table(("FILE", "SIZE", "SHA-256"), rows, right=("SIZE",))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted path and value of what is inside nested objects; of a long list of values, its length."""
    if isinstance(value, dict) and len(value) > _MAX_LEAVES and not any(isinstance(v, dict) for v in value.values()):
        yield path, f"{len(value)} entries; --json shows them"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    else:
        yield path, value


def _print_verdicts(artifacts: Sequence[StoredArtifact], report: Mapping[str, Sequence[Damage]]) -> None:
    """Print one line an artifact, and one for each damaged file."""
    from nexa import units
    from nexa.text import sanitize

    if not report:
        click.echo("no artifacts", err=True)
    sizes = {artifact.name: artifact.meta.bytes for artifact in artifacts}
    for name, damages in report.items():
        if not damages:
            click.echo(f"{click.style('whole', fg='green')}    {name} ({units.size(sizes[name])})")
            continue
        click.echo(f"{click.style('DAMAGED', fg='red', bold=True)}  {name}")
        for damage in damages:
            click.echo(f"         {sanitize(damage.file)} {sanitize(damage.message)}")


def _warn(message: str) -> None:
    from nexa.text import sanitize

    click.echo(f"{click.style('warning:', fg='yellow')} {sanitize(message)}", err=True)
