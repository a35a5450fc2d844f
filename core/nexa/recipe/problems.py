"""Validation errors in plain English: where, what is wrong, and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel

from nexa.errors import Problem
from nexa.recipe.chain import problem_at
from nexa.recipe.node import Node, Origin
from nexa.recipe.sections.base import PATTERNS

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

MAX_SHOWN = 60

# What other trainers call these keys.
FOREIGN_NAMES = {
    "base_model": "model.name",
    "batch_size": "training.microbatch_size_per_gpu",
    "bf16": "training.precision",
    "dataset": "data.remote_uri",
    "dataset_name": "data.remote_uri",
    "datasets": "data.remote_uri",
    "eval_steps": "training.eval_every_steps",
    "fp16": "training.precision",
    "gpus": "cluster.gpus_per_node",
    "gradient_accumulation_steps": "training.grad_accumulation_steps",
    "gradient_checkpointing": "training.activation_checkpointing",
    "hidden_size": "model.d_model",
    "learning_rate": "optimizer.lr",
    "logging_steps": "training.log_every_steps",
    "lora": "adapter",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_r": "adapter.rank",
    "lora_target_modules": "adapter.target_modules",
    "lr_scheduler": "optimizer.scheduler",
    "lr_scheduler_type": "optimizer.scheduler",
    "max_length": "model.max_seq_len",
    "max_seq_length": "model.max_seq_len",
    "micro_batch_size": "training.microbatch_size_per_gpu",
    "model_name_or_path": "model.name",
    "nodes": "cluster.num_nodes",
    "num_attention_heads": "model.n_heads",
    "num_epochs": "training.epochs",
    "num_hidden_layers": "model.n_layers",
    "num_train_epochs": "training.epochs",
    "output_dir": "artifacts.store_uri",
    "per_device_train_batch_size": "training.microbatch_size_per_gpu",
    "run_name": "run.name",
    "save_steps": "training.save_every_steps",
    "sequence_len": "model.max_seq_len",
    "steps": "training.max_steps",
    "test_size": "data.validation.fraction",
    "val_set_size": "data.validation.fraction",
    "warmup": "optimizer.scheduler.warmup_steps",
    "warmup_ratio": "optimizer.scheduler.warmup_steps",
    "wandb_project": "wandb.project",
}


def explain(error: ValidationError, root: Node, schema: type[BaseModel], prefix: Sequence[str] = ()) -> list[Problem]:
    """One problem for each place that pydantic complains about.

    root: the tree that was validated against `schema`. prefix: where that tree stands in the recipe.
    """
    groups: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        groups.setdefault(_path_of(detail, root), []).append(detail)
    return [_explain_group(path, details, root, schema, prefix) for path, details in groups.items()]


def unknown_key(key: str, place: Origin | None, path: str, allowed: Iterable[str]) -> Problem:
    """An unknown key at dotted `path`: did you mean another one here, or one of another section?"""
    names = sorted(allowed)
    section = path.rpartition(".")[0]
    return problem_at(place, "unknown key", path=shown(path), hint=_key_hint(key, section, names))


def closest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` is probably a misspelling of, None where none is close."""
    matches = difflib.get_close_matches(word[:MAX_SHOWN], list(choices), n=1)
    return matches[0] if matches else None


def shown(text: str) -> str:
    """`text`, cut where it is too long for a message."""
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def model_at(schema: Any, path: Sequence[str | int]) -> type[BaseModel] | None:
    """The section model at `path` of a schema, None where the path does not end in a section."""
    annotation = schema
    for part in path:
        if isinstance(part, int):
            annotation = _member_of(annotation)
        else:
            model = _model_of(annotation)
            field = model.model_fields.get(part) if model is not None else None
            annotation = field.annotation if field is not None else None
    return _model_of(annotation)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a value of this type is, also where it may be null; None for others, such as a list of models."""
    options = () if get_origin(annotation) is list else (annotation, *get_args(annotation))
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)


def _member_of(annotation: Any) -> Any:
    """The type of a list's members, also where the list may be null; None for anything else."""
    lists = [option for option in (annotation, *get_args(annotation)) if get_origin(option) is list]
    return get_args(lists[0])[0] if lists else None


def _path_of(detail: ErrorDetails, root: Node) -> tuple[str | int, ...]:
    """The error's path without the labels pydantic adds for the branches of a union."""
    node: Node | None = root
    path: list[str | int] = []
    for part in detail["loc"]:
        node = node.child(part) if node is not None else None
        if node is None and detail["type"] != "missing":
            break
        path.append(part)
    return tuple(path)


def _explain_group(
    path: tuple[str | int, ...],
    details: Sequence[ErrorDetails],
    root: Node,
    schema: type[BaseModel],
    prefix: Sequence[str],
) -> Problem:
    node = root.find(path)
    dotted = ".".join(str(part) for part in (*prefix, *path))
    first = details[0]
    if first["type"] == "extra_forbidden":
        section = model_at(schema, path[:-1])
        allowed = section.model_fields if section is not None else ()
        return unknown_key(str(path[-1]), (node.key or node.origin) if node else None, dotted, allowed)
    if first["type"] == "missing":
        above = next(found for end in range(len(path) - 1, -1, -1) if (found := root.find(path[:end])))
        return problem_at(above.key or above.origin, "required, but not given", path=dotted)
    place = node.origin if node is not None else None
    if len({detail["type"] for detail in details}) == 1:
        wanted = _wanted(first, model_at(schema, path))
    else:
        wanted = " or ".join(dict.fromkeys(_wanted(detail, None).removeprefix("must be ") for detail in details))
        wanted = f"must be {wanted}"
    if first["type"] == "value_error":
        return problem_at((node.key or place) if node else None, wanted, path=dotted or None)
    given = first.get("ctx", {}).get("actual_length") or _described(first["input"])
    return problem_at(place, f"{wanted}, not {given}", path=dotted, hint=_value_hint(first))


def _wanted(detail: ErrorDetails, section: type[BaseModel] | None) -> str:
    """What the field takes: "must be …"."""
    context: Mapping[str, Any] = detail.get("ctx", {})
    kind = detail["type"]
    if kind == "value_error":
        return str(context["error"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        names = list(section.model_fields) if section is not None else []
        shown_names = ", ".join([*names[:4], *(["…"] if len(names) > 4 else [])])
        return f"must be a mapping of keys ({shown_names})" if names else "must be a mapping"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind in ("too_short", "too_long"):
        count = context.get("min_length", context.get("max_length"))
        return f"must hold at {'least' if kind == 'too_short' else 'most'} {count} values"
    if kind == "string_too_long":
        return f"must be text of at most {context['max_length']} characters"
    if kind == "string_pattern_mismatch":
        return f"must be {PATTERNS.get(context['pattern'], 'text that matches ' + context['pattern'])}"
    simple = {
        "bool_type": "must be true or false",
        "finite_number": "must be a finite number",
        "float_type": "must be a number",
        "int_type": "must be a whole number",
        "list_type": "must be a list",
        "string_type": "must be text",
    }
    limits = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
    words = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
    if kind in limits:
        return f"must be {words[limits[kind]]} {context[limits[kind]]:g}"
    return simple.get(kind, f"{detail['msg'][0].lower()}{detail['msg'][1:]}")


def _described(value: Any) -> str:
    """A value as a person wrote it: its sort and, where short, itself."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return shown(f"{value}")
    if isinstance(value, str):
        return f"the text {shown(value)!r}"
    return "a mapping" if isinstance(value, dict) else "a list"


def _value_hint(detail: ErrorDetails) -> str | None:
    value = detail["input"]
    kind = detail["type"]
    if kind == "literal_error" and isinstance(value, str):
        close = closest(value, re.findall(r"'([^']*)'", detail["ctx"]["expected"]))
        return f"did you mean {close!r}?" if close else None
    if kind in ("int_type", "float_type") and isinstance(value, str) and _is_number(value):
        return "remove the quotes"
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if kind == "bool_type" and str(value).lower() in ("yes", "no", "on", "off", "y", "n"):
        return "YAML 1.2 knows only true and false"
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "put it in quotes"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _key_hint(key: str, section: str, allowed: Sequence[str]) -> str | None:
    elsewhere = [path for path in _key_paths().get(key, ()) if path.rpartition(".")[0] != section]
    foreign = FOREIGN_NAMES.get(key)
    if foreign is not None and foreign.rpartition(".")[0] == section:
        return f"did you mean {foreign.rpartition('.')[2]!r}?"
    if elsewhere or foreign is not None:
        return f"did you mean {' or '.join(elsewhere or [str(foreign)])}?"
    close = closest(key, allowed)
    if close is not None:
        return f"did you mean {close!r}?"
    misspelt = closest(key, [name for name in _key_paths() if len(name) > 3])
    if misspelt is not None:
        return f"did you mean {' or '.join(_key_paths()[misspelt])}?"
    if not allowed:
        return None
    return f"known here: {', '.join(allowed)}" + ("; your own keys go under `meta`" if not section else "")


@cache
def _key_paths() -> Mapping[str, Sequence[str]]:
    """Every key below the top level of a recipe, with the dotted paths it stands at."""
    from nexa.recipe.schema import Recipe

    paths: dict[str, list[str]] = {}

    def visit(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            if prefix:
                paths.setdefault(name, []).append(f"{prefix}.{name}")
            section = _model_of(field.annotation)
            if section is not None:
                visit(section, f"{prefix}.{name}" if prefix else name)

    visit(Recipe, "")
    return paths
