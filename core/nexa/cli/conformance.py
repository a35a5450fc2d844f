"""`nexa conformance`: does a backend train what the reference trains?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nexa.conformance.report import CheckResult, ConformanceReport


@click.command()
@click.argument("backend")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option("--only", multiple=True, metavar="CHECK", help="Make this check alone; may be given several times.")
@click.option("--json", "json_path", metavar="FILE", help="Write the report as JSON; - prints it and nothing else.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep the kit's runs in a new folder.")
def command(
    backend: str, overrides: tuple[str, ...], only: tuple[str, ...], json_path: str | None, keep: Path | None
) -> int:
    """Train a tiny model with BACKEND and compare each step of the way with a reference.

    Compared are its settings under change, token ids, loss masks, first loss, gradient norm, learning rate, loss
    curve, accumulation, packing, resume, events and checkpoints. Overrides are recipe keys that the backend
    needs on top. Exit code 0: every difference is one that the backend declares; 1: another is named.

    \b
    nexa conformance torch
    nexa conformance torch --only tokens --only masks
    nexa conformance torch --json report.json
    """
    import tempfile

    from nexa.cli.output import fail, print_json
    from nexa.conformance.report import run_conformance
    from nexa.plugins import get_host

    silent = json_path == "-"
    if keep is not None and keep.exists():
        fail(f"{keep} exists", hint="name a folder that does not, for the kit's runs")
    if json_path is not None and not silent and not Path(json_path).absolute().parent.is_dir():
        fail(f"{json_path} can't be written: there is no folder {Path(json_path).absolute().parent}")
    with tempfile.TemporaryDirectory(prefix="nexa-conformance-") as temporary:
        folder = keep or Path(temporary)
        report = run_conformance(
            get_host(),
            backend,
            folder,
            only=only,
            overrides=_values(overrides),
            on_result=None if silent else _print_progress,
        )
    if silent:
        print_json(report.document())
    else:
        _print(report)
    if json_path is not None and not silent:
        _write(Path(json_path), report)
    return 0 if report.conforms else 1


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    """Recipe keys and their values, read as YAML. Raises RecipeError for what can't be read."""
    from nexa.recipe.load import parse_override

    parsed = (parse_override(text) for text in overrides)
    return {key: node.plain() for key, node, _ in parsed}


def _print_progress(result: CheckResult) -> None:
    click.echo(f"{result.name}: {result.verdict}", err=True)


def _print(report: ConformanceReport) -> None:
    from collections import Counter

    from nexa.cli.output import table
    from nexa.text import sanitize

    table(
        ("CHECK", "VERDICT", "COMPARED", "WHY"),
        [(result.name, result.verdict, result.summary, result.reason) for result in report.results],
    )
    for result in report.results:
        if result.details:
            click.echo(f"\n{result.name} {result.verdict}:")
            for detail in result.details:
                click.echo(f"  {sanitize(detail)}")
    counts = Counter(str(result.verdict) for result in report.results)
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    click.echo(f"\nresult: backend {report.backend} {'conforms' if report.conforms else 'does not conform'} ({found})")


def _write(path: Path, report: ConformanceReport) -> None:
    import json

    from nexa.cli.output import fail

    try:
        path.write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        fail(f"{path} can't be written: {error.strerror or error}")
