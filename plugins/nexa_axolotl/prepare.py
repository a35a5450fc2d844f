"""`python -m nexa_axolotl.prepare RUN_DIR ATTEMPT`: make what an Axolotl run reads, in Nexa's own environment.

The rows are encoded and masked by the code that every backend of Nexa shares, so that Axolotl trains on the same
token ids and masks; its own packing and batching follow. Weights that Axolotl can't read (an architecture's
random ones, a GGUF file's) are written as safetensors.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.errors import NexaError
from nexa.files import write_json
from nexa.recipe.schema import Recipe
from nexa.worker.session import read_plan
from nexa_axolotl.layout import Layout
from nexa_axolotl.preferences import METHODS, text_rows
from nexa_axolotl.render import Inputs, encodes_rows, model_needs_folder, render
from nexa_axolotl.yaml_text import to_yaml

if TYPE_CHECKING:
    from nexa_torch.data.rows import Rows

_ROWS_AT_ONCE = 256


def main(argv: list[str]) -> int:
    """Prepare the run in folder `argv[0]` for its attempt `argv[1]`; the exit code is that of the error, if any."""
    run_dir, attempt = Path(argv[0]), int(argv[1])
    try:
        recipe = Recipe.from_document(read_plan(run_dir, attempt)["recipe"])
        prepare(recipe, Layout(run_dir), attempt=attempt)
    except NexaError as error:
        print(json.dumps({"message": error.message, "hint": error.hint}))
        return error.exit_code
    return 0


def prepare(recipe: Recipe, layout: Layout, *, attempt: int) -> dict[str, Any]:
    """Write rows, tokenizer, weights and configuration into `layout`; return what was made, in numbers.

    Raises what `nexa_torch.data.prepare.prepare_data` and the model loaders raise.
    """
    layout.folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = {"attempt": attempt, **_prepared(recipe, layout)}
    inputs = Inputs(
        base_model=made["base_model"], row_length=made["row_length"], held_out=bool(made.get("held_out_rows"))
    )
    layout.config.write_text(to_yaml(render(recipe, layout, inputs)), encoding="utf-8")
    write_json(layout.prepared, made)
    return made


def _prepared(recipe: Recipe, layout: Layout) -> dict[str, Any]:
    if not encodes_rows(recipe):
        return _model_alone(recipe, layout)
    if recipe.method in METHODS:
        return _preferences(recipe, layout)
    from nexa_torch.data.prepare import prepare_data

    data = prepare_data(unpacked(recipe))
    data.tokenizer.save_pretrained(str(layout.tokenizer))
    _write_rows(data.train, layout.training_rows)
    if data.validation is not None:
        _write_rows(data.validation, layout.held_out_rows)
    return {
        "base_model": _base_model(recipe, data.tokenizer, layout, data.row_length),
        "row_length": data.row_length,
        "rows": len(data.train),
        "held_out_rows": len(data.validation) if data.validation is not None else 0,
        "tokens": data.train.token_count,
        "trained_tokens": data.train.trained_token_count,
        "dataset_hash": data.dataset_hash,
        "summary": data.summary,
        "warnings": list(data.warnings),
    }


def _model_alone(recipe: Recipe, layout: Layout) -> dict[str, Any]:
    """What Axolotl needs that encodes its data itself: nothing but the model's name, where it reads it by itself."""
    if not model_needs_folder(recipe) and recipe.model.max_seq_len is not None:
        return {"base_model": recipe.model.name, "row_length": recipe.model.max_seq_len}
    from nexa_torch.data.tokenizer import load_tokenizer, row_length

    length = row_length(recipe.model)
    if not model_needs_folder(recipe):
        return {"base_model": recipe.model.name, "row_length": length}
    tokenizer = load_tokenizer(recipe.model)
    tokenizer.save_pretrained(str(layout.tokenizer))
    return {"base_model": _base_model(recipe, tokenizer, layout, length), "row_length": length}


def _preferences(recipe: Recipe, layout: Layout) -> dict[str, Any]:
    """Prompts and answers as texts, which Axolotl gives to TRL."""
    rows = text_rows(recipe)
    rows.tokenizer.save_pretrained(str(layout.tokenizer))
    _write_lines(iter(rows.train), layout.training_rows)
    if rows.held_out is not None:
        _write_lines(iter(rows.held_out), layout.held_out_rows)
    return {
        "base_model": _base_model(recipe, rows.tokenizer, layout, rows.row_length),
        "row_length": rows.row_length,
        "rows": len(rows.train),
        "held_out_rows": len(rows.held_out or ()),
        "dataset_hash": rows.source.sha256,
        "warnings": rows.warnings,
    }


def unpacked(recipe: Recipe) -> Recipe:
    """The recipe with a document a row: Axolotl packs them itself."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"packing": False})})


def _write_rows(rows: Rows, path: Path) -> None:
    """One JSON object a row, in Axolotl's layout for encoded data: labels stand under their own token."""
    _write_lines(_rows(rows), path)


def _write_lines(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")


def _rows(rows: Rows) -> Iterator[dict[str, list[int]]]:
    from nexa_torch.data.rows import IGNORED

    for start in range(0, len(rows), _ROWS_AT_ONCE):
        batch = rows.take(range(start, min(start + _ROWS_AT_ONCE, len(rows))))
        for ids, labels, document in zip(batch.input_ids, batch.labels, batch.document, strict=True):
            length = int((document >= 0).sum())
            yield {
                "input_ids": ids[:length].tolist(),
                "attention_mask": [1] * length,
                # Nexa's labels say what a position predicts; Axolotl's stand one place further on.
                "labels": [IGNORED, *labels[: length - 1].tolist()],
            }


def _base_model(recipe: Recipe, tokenizer: Any, layout: Layout, row_length: int) -> str:
    """What Axolotl loads: the recipe's model, or a folder made of it."""
    from nexa_torch.sources import resolve_source

    source = resolve_source(recipe.model.name)
    if source.kind == "architecture":
        from nexa_torch.models import load_model

        made = load_model(recipe.model, tokenizer, row_length=row_length, seed=recipe.training.seed)
        shutil.rmtree(layout.model, ignore_errors=True)
        made.network.save_pretrained(str(layout.model))
        return str(layout.model)
    if source.gguf_file is not None and source.path is not None:
        return str(_converted(source))
    return source.location


def _converted(source: Any) -> Path:
    """Folder of a GGUF file's weights as safetensors, kept in the user's cache under the file's SHA-256."""
    import transformers

    from nexa.prepared import cache_root
    from nexa_torch.data.locate import store_in_cache
    from nexa_torch.models import load_network

    with source.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache_root() / "axolotl" / "models" / f"{digest[:32]}-{transformers.__version__}"
    if not folder.is_dir():
        store_in_cache(folder, load_network(source).save_pretrained)
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
