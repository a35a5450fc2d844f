"""`nexa distill`: record a teacher, look at what was recorded, and put students beside their teacher."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nexa.distiller import CaptureProgress, Comparison, Distiller
    from nexa.recipe.schema import Recipe

_PHASES = {
    "tokenizing": "encoding documents",
    "waiting": "another process captures into this folder",
    "loading teacher": "loading the teacher",
}


@click.group()
def command() -> None:
    """Record a teacher's predictions, check them, and compare students with their teacher."""


def _json_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(function)


def _store_option(function: Callable[..., None]) -> Callable[..., None]:
    text = "Artifact store to use instead of the one in settings."
    return click.option("--store", "store_uri", metavar="URI", help=text)(function)


@command.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Folder to write. Default: distill.dataset of the recipe where it is a folder, else the artifact store.",
)
@_store_option
@click.option("--dry-run", is_flag=True, help="Say what would be written, and stop.")
@_json_option
def capture(
    recipe: str, overrides: Sequence[str], output: Path | None, store_uri: str | None, dry_run: bool, as_json: bool
) -> None:
    """Let the teacher of a recipe read its training data once, and keep what it predicts.

    The size is told first. What a killed capture has finished is kept: the same command goes on from there. Under
    torchrun or srun the processes share the work.
    """
    from nexa.cli.output import print_json
    from nexa.distilled import Destination

    loaded, distiller = _load(recipe, overrides)
    index = name = None
    with _progress() as on_progress:
        estimate = distiller.estimate(loaded)
        place = Destination.of(loaded, estimate, output=output, store_uri=store_uri, name=_label(recipe))
        if not as_json:
            _say(f"{estimate.tokens:,} predictions, about {_size(estimate.bytes)}, into {place}")
        if not dry_run and (name := place.earlier()) is None:
            index, name = place.finish(distiller.capture(loaded, place.folder, on_progress=on_progress))
    if as_json:
        print_json({"tokens": estimate.tokens, "bytes": estimate.bytes, "index": index, "artifact": name})
    elif index is not None and index.is_file():
        _say(f"written: {name or index}")
        _print_facts(_index(index))
    elif name is not None:
        _say(f"captured before: {name}")
    elif index is not None:
        _say("this process's part is done; the last one to finish writes the index")


@command.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--name", help="Folder of the artifact's name: datasets/NAME/… Default: the folder's name.")
@_store_option
def commit(dataset: Path, name: str | None, store_uri: str | None) -> None:
    """Move a distilled dataset into the artifact store; nothing is copied on one file system."""
    from nexa.distilled import commit_dataset
    from nexa.stores import open_store

    folder = _index_file(dataset).parent
    found = commit_dataset(open_store(store_uri), folder, label=name or _label(folder.absolute().name))
    _say(f"committed: {found}")


@command.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@_store_option
@_json_option
def show(dataset: Path, store_uri: str | None, as_json: bool) -> None:
    """Show what a distilled dataset holds, and how much of the teacher it keeps."""
    from nexa.cli.output import print_json

    index = _index(_index_file(dataset, store_uri))
    if as_json:
        print_json(index)
        return
    _print_facts(index)


@command.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@_store_option
def verify(dataset: Path, store_uri: str | None) -> None:
    """Hash every file of a distilled dataset; ends with 1 where one is damaged."""
    from nexa.errors import ArtifactError

    index = _index_file(dataset, store_uri)
    damage = _distiller_of(index).verify(index)
    if damage:
        raise ArtifactError(
            "\n".join(damage), hint="type its nexa distill capture again: whole shards are kept, others made anew"
        )
    _say(f"{dataset} is whole")


@command.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--format",
    "form",
    required=True,
    help="axolotl: rows with its KD columns, shifted as it reads them. json: whole distributions of small sets.",
)
@_store_option
def export(dataset: Path, output: Path, form: str, store_uri: str | None) -> None:
    """Write a distilled dataset in another form."""
    with _progress() as on_progress:
        index = _index_file(dataset, store_uri)
        _distiller_of(index).export(index, output, form=form, on_progress=on_progress)
    _say(f"written: {output}")


@command.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option(
    "--student", default="latest", show_default=True, help="Checkpoint: a folder, artifact, run id or latest."
)
@_store_option
@click.option("--plot", type=click.Path(path_type=Path), help="SVG file to draw calibration and losses into.")
@_json_option
def compare(
    recipe: str, overrides: Sequence[str], student: str, store_uri: str | None, plot: Path | None, as_json: bool
) -> None:
    """Put a student beside the recipe's teacher on its held-out rows: KL, agreement, perplexity, calibration."""
    from nexa.checkpoints import find_checkpoint
    from nexa.cli.output import print_json

    loaded, distiller = _load(recipe, overrides)
    found = find_checkpoint(student, store_uri=store_uri, warn=lambda text: click.echo(f"warning: {text}", err=True))
    with _progress() as on_progress:
        result = distiller.compare(loaded, found.folder, on_progress=on_progress)
    if plot is not None:
        from nexa.cli.distill_plot import comparison_svg

        _write(plot, comparison_svg(result))
    if as_json:
        print_json(result)
        return
    _print_comparison(result)
    if plot is not None:
        _say(f"drawn: {plot}")


@command.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="JSONL file of rows to write.")
@click.option("--dry-run", is_flag=True, help="Count the prompts and show the first; ask nothing.")
@_json_option
def text(recipe: str, overrides: Sequence[str], output: Path, dry_run: bool, as_json: bool) -> None:
    """Let the teacher answer a recipe's prompts, and keep what passes as rows to fine-tune on.

    Each answer is filtered and, with distill.text.judge, marked; what fails is asked for again. The same command goes
    on where a stopped one ended.
    """
    from nexa.cli.output import print_json

    loaded, distiller = _load(recipe, overrides, checked=False)
    with _progress() as on_progress:
        done = distiller.write_text(loaded, output.absolute(), dry_run=dry_run, on_progress=on_progress)
    if as_json:
        print_json(done)
        return
    if dry_run:
        _say(f"{done.prompts:,} prompts to ask, rows go to {done.output}")
        return
    _say(f"{done.rows:,} rows of {done.prompts:,} prompts, {done.requests:,} requests: {done.output}")
    for reason, count in done.left_out.items():
        _say(f"  left out: {count:,} {reason}")


def _load(recipe: str, overrides: Sequence[str], *, checked: bool = True) -> tuple[Recipe, Distiller]:
    """A recipe and its distiller. checked: raise RecipeError with what keeps it from being captured."""
    from nexa.errors import RecipeError
    from nexa.plugins import get_host
    from nexa.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides=overrides).recipe
    distiller = get_host().create("distiller", loaded.distill.distiller)
    if checked and (problems := distiller.check(loaded)):
        raise RecipeError(problems)
    return loaded, distiller


def _label(name: str) -> str:
    """A name of a recipe or folder as one part of an artifact's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-._") or "dataset"


def _index_file(dataset: Path, store_uri: str | None = None) -> Path:
    """The index of a dataset that is given as folder, index or artifact."""
    from nexa.distilled import find_dataset
    from nexa.distiller import DATASET_INDEX

    folder = find_dataset(dataset, store_uri)
    return folder if folder.name == DATASET_INDEX else folder / DATASET_INDEX


def _index(path: Path) -> dict[str, Any]:
    from nexa.errors import DataError
    from nexa.files import read_json

    index = read_json(path)
    if index is None:
        raise DataError(f"{path} is missing or no JSON", hint="make a dataset with: nexa distill capture")
    return index


def _distiller_of(index: Path) -> Distiller:
    from nexa.plugins import get_host

    return get_host().create("distiller", str(_index(index).get("distiller", "logits")))


@contextmanager
def _progress() -> Iterator[CaptureProgress | None]:
    from nexa.cli.prepare import progress_bar

    with progress_bar(phases=_PHASES) as on_progress:
        yield on_progress


def _print_facts(index: dict[str, Any]) -> None:
    from nexa.text import sanitize

    for name, text in _facts(index):
        click.echo(sanitize(f"{name:<11}{text}"))


def _facts(index: dict[str, Any]) -> Iterator[tuple[str, str]]:
    teacher, record, quality = (index.get(key, {}) for key in ("teacher", "record", "quality"))
    if teacher:
        revision = f" @ {teacher['revision']}" if teacher.get("revision") else ""
        yield "teacher", f"{teacher['name']}{revision}, {teacher['precision']}"
    if record:
        parts = [f"{record['draws']} draws"] if record["draws"] else []
        parts += [f"{record['head']} exact"] if record["head"] else []
        yield "record", f"{record['mode']}: {', '.join(parts)}, temperature {record['temperature']:g}"
    if "recorded" in index:
        yield (
            "rows",
            f"{index['recorded']:,} predictions over {index['tokens']:,} tokens, {len(index['shards'])} shards",
        )
        yield "size", f"{_size(index['bytes'])}, {quality['bytes_per_row']:g} bytes a prediction"
    if quality:
        yield "kept", f"{quality['kept_mass']:.1%} of the teacher's probability lies on recorded tokens"
        yield (
            "truncation",
            f"{quality['truncation_kl']:.4g} nats if only those were kept and normalised (mean of −log kept)",
        )
        yield "teacher CE", f"{quality['teacher_loss']:.4g} nats"


def _print_comparison(result: Comparison) -> None:
    import math

    from nexa.cli.output import table

    table(
        ("", "teacher", "student"),
        [
            ("loss (nats)", f"{result.teacher_loss:.4f}", f"{result.student_loss:.4f}"),
            ("perplexity", f"{math.exp(result.teacher_loss):.3f}", f"{math.exp(result.student_loss):.3f}"),
            (
                "calibration error",
                f"{result.teacher_calibration.error:.4f}",
                f"{result.student_calibration.error:.4f}",
            ),
        ],
        right=("teacher", "student"),
    )
    _say(
        f"KL(teacher ‖ student) {result.kl:.4f} nats, same likeliest token at {result.agreement:.1%} "
        f"of {result.positions:,} positions"
    )


def _size(number: int) -> str:
    from nexa import units

    return units.size(number)


def _write(path: Path, text: str) -> None:
    from nexa.errors import UserError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror or error}") from error


def _say(text: str) -> None:
    from nexa.text import sanitize

    click.echo(sanitize(text))
    sys.stdout.flush()
