"""`nexa plugins`: what is installed, what works, and the whole story of what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nexa.plugins import PluginEntry


@click.command()
@click.argument("name", required=False)
@click.option("--errors", is_flag=True, help="Show only plugins with a problem, with their tracebacks.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(name: str | None, errors: bool, as_json: bool) -> None:
    """List plugins and what is wrong with them.

    With NAME (of a plugin, an entry point or a distribution): only these, with their tracebacks.

    Status: ok; duplicate (two plugins of one name: neither can be used); error (failed to load);
    slow (still importing, used only when named); off (excluded by NEXA_LOAD_PLUGINS or --no-plugins).
    """
    from nexa.cli.output import print_json
    from nexa.plugins import get_host

    report = get_host().report()
    chosen = report if name is None else _named(report, name)
    if errors:
        chosen = tuple(entry for entry in chosen if entry.status not in ("ok", "off"))
    if as_json:
        print_json(chosen)
    elif name is None and not errors:
        _print_table(chosen)
    elif not chosen:
        click.echo("no plugin has a problem")
    else:
        for entry in chosen:
            _print_whole(entry)


def _named(report: Sequence[PluginEntry], name: str) -> tuple[PluginEntry, ...]:
    from nexa.errors import PluginError

    chosen = tuple(entry for entry in report if name in (entry.name, entry.entry_point, entry.distribution))
    if not chosen:
        known = ", ".join(sorted({entry.name for entry in report}))
        raise PluginError(f"there is no plugin {name!r}", hint=f"installed: {known or 'none'}")
    return chosen


def _print_table(entries: Sequence[PluginEntry]) -> None:
    from nexa.cli.output import table

    columns = ("NAME", "KIND", "DISTRIBUTION", "VERSION", "STATUS", "SUMMARY")
    rows = [
        (entry.name, entry.kind or "-", entry.distribution, entry.version, entry.status, entry.message or entry.summary)
        for entry in entries
    ]
    table(columns, rows)
    troubled = sum(entry.status in ("duplicate", "error", "slow") for entry in entries)
    if troubled:
        click.echo(f"\n{troubled} with a problem; tracebacks: nexa plugins --errors", err=True)


def _print_whole(entry: PluginEntry) -> None:
    from nexa.text import sanitize

    lines = [f"{entry.name}: {entry.status}"]
    fields = (
        ("kind", entry.kind),
        ("provided by", f"{entry.distribution} {entry.version} (entry point {entry.entry_point!r})"),
        ("summary", entry.summary),
        ("message", entry.message),
    )
    lines += [f"  {label:<12} {text}" for label, text in fields if text]
    lines += [f"  {line}" for line in entry.traceback.splitlines()]
    click.echo(sanitize("\n".join(lines)))
