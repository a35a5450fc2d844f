"""`nexa doctor`: look at this machine and say what is missing and what to type."""

from __future__ import annotations

import sys

import click

_MARKS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "missing": ("MISSING", "red")}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(as_json: bool) -> int:
    """Check this machine and say what to install.

    Exit code 1 when something that local training needs is missing.
    """
    from nexa.cli.output import print_json
    from nexa.doctor import examine

    findings = examine()
    missing = [finding for finding in findings if finding.status == "missing"]
    if as_json:
        print_json({"ok": not missing, "findings": findings})
    else:
        for finding in findings:
            _print(finding.name, finding.status, finding.detail, finding.fix)
        _print_verdict(len(missing), sum(finding.status == "warn" for finding in findings))
    return 1 if missing else 0


def _print(name: str, status: str, detail: str, fix: str) -> None:
    from nexa.text import sanitize

    label, colour = _MARKS[status]
    mark = click.style(f"{label:<7}", fg=colour)
    click.echo(f"{mark}  {sanitize(name):<12}  {sanitize(detail)}")
    if fix:
        click.echo(f"{'':<23}→ {sanitize(fix)}" if _can_print_arrow() else f"{'':<23}-> {sanitize(fix)}")


def _can_print_arrow() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")


def _print_verdict(missing: int, warnings: int) -> None:
    click.echo("")
    if missing:
        click.echo(f"Local training can't work yet: {missing} thing(s) missing; see what to type above.")
    elif warnings:
        click.echo(f"Ready to train here; {warnings} warning(s).")
    else:
        click.echo("Ready to train here.")
