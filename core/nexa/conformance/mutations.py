"""Recipes that differ in one field: for each leaf of the schema, other values that are valid too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from nexa.recipe.schema import Recipe
from nexa.settings_report import CORE_FIELDS

if TYPE_CHECKING:
    from pydantic import BaseModel

_VALUES: Mapping[str, Sequence[Any]] = {
    "method": ("pretrain", "sft"),
    "model.name": ("org/other-model",),
    "model.d_model": (64, 96),
    "model.n_heads": (1, 4, 8),
    "model.n_kv_heads": (1, 2),
    "training.global_batch_size": (12, 8),
    "training.grad_accumulation_steps": (2, 3),
    "optimizer.name": ("sgd", "adamw", "lion", "adafactor"),
    "optimizer.betas": ([0.5, 0.75], [0.25, 0.5]),
    "optimizer.scheduler.name": ("constant", "linear", "cosine_warmup"),
    "rollouts.rewards": (["other"], [{"name": "other"}]),
    "data.expected_dataset_hash": ("0" * 64, "f" * 64),
}
"""Values of fields whose type says too little about what makes sense."""

_COMPANIONS: Mapping[str, Mapping[str, Any]] = {
    "model.name": dict.fromkeys(("model.d_model", "model.n_layers", "model.n_heads", "model.n_kv_heads", "model.d_ff")),
    "training.global_batch_size": {"training.grad_accumulation_steps": None},
    "training.grad_accumulation_steps": {"training.global_batch_size": None},
    "training.max_steps": {"training.epochs": None},
    "training.epochs": {"training.max_steps": None},
    "data.validation.fraction": {"data.validation.remote_uri": None, "data.validation.split": None},
    "data.validation.remote_uri": {"data.validation.fraction": None, "data.validation.split": None},
    "data.validation.split": {"data.validation.fraction": None, "data.validation.remote_uri": None},
}
"""Fields that must change with another: values that exclude it, or that it takes the place of."""

_BASES: Sequence[Mapping[str, Any]] = (
    {},
    {"model.d_model": 32, "model.n_layers": 2, "model.n_heads": 2},
    {"distill.mode": "online"},
)
"""Values to change a field beside, the first with which it may have another value at all."""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One field with another value.

    path: dotted key of the field. before, value: what it was, and what it was changed to. base: the recipe
    before the change, with the optional section of the field written out. changed: after it.
    """

    path: str
    before: Any
    value: Any
    base: Recipe
    changed: Recipe


def mutations(recipe: Recipe, options: Mapping[str, type[BaseModel]] | None = None) -> Iterator[Mutation]:
    """Every leaf of the recipe schema that a backend answers for, with other values; then plugins' options.

    A field with a list of choices gets every other choice, any other field one value, two where it is unset. A
    field that can have no other value beside the rest of the recipe, such as a size of a model that exists, is
    left out. options: models of the plugin sections to mutate, by plugin name.
    """
    for path in recipe.leaf_paths():
        if path not in CORE_FIELDS:
            yield from _of_leaf(recipe, path)
    for name, model in (options or {}).items():
        for field in model.model_fields:
            yield from _of_option(recipe, name, model, field)


def _of_leaf(recipe: Recipe, path: str) -> Iterator[Mutation]:
    sections = _sections_on_the_way(recipe, path)
    for more in _BASES:
        base = _valid(recipe, {**sections, **more}) if sections or more else recipe
        found = list(_of_base(base, path)) if base is not None else []
        if found:
            yield from found
            return


def _of_base(base: Recipe, path: str) -> Iterator[Mutation]:
    """The field's other values in a recipe that has its section: every choice, else two where it is unset, else one."""
    before, companions = _value(base.document(), path), _COMPANIONS.get(path, {})
    annotation = _annotation(path)
    wanted = len(_choices(annotation)) or (2 if before is None else 1)
    used: list[Any] = [before]
    for value in (*_VALUES.get(path, ()), *_guesses(annotation, before)):
        changed = _valid(base, {**companions, path: value}) if value not in used else None
        if changed is None:
            continue
        # The fields that must go with it are at rest in both recipes, where the schema lets them be.
        settled = (_valid(base, {**companions, path: before}) if companions else None) or base
        used.append(value)
        yield Mutation(path=path, before=before, value=value, base=settled, changed=changed)
        if len(used) > wanted:
            return


def _of_option(recipe: Recipe, name: str, model: type[BaseModel], field: str) -> Iterator[Mutation]:
    from pydantic import ValidationError

    before = model.model_validate(recipe.plugin_options.get(name, {}))
    annotation = model.model_fields[field].annotation
    for value in _guesses(annotation, getattr(before, field)):
        try:
            after = model.model_validate({**before.model_dump(mode="json"), field: value})
        except ValidationError:
            continue
        base = _with_options(recipe, name, before)
        changed = _with_options(recipe, name, after)
        yield Mutation(path=f"{name}.{field}", before=getattr(before, field), value=value, base=base, changed=changed)
        if not _choices(annotation):
            return


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted keys set to values. Raises pydantic's ValidationError where it is none then."""
    document = recipe.document()
    for path, value in values.items():
        *sections, last = path.split(".")
        section = document
        for name in sections:
            if section.get(name) is None:
                section[name] = {}
            section = section[name]
        section[last] = value
    return Recipe.from_document(document)


def _valid(recipe: Recipe, values: Mapping[str, Any]) -> Recipe | None:
    from pydantic import ValidationError

    try:
        return with_values(recipe, values)
    except ValidationError:
        return None


def _with_options(recipe: Recipe, name: str, options: BaseModel) -> Recipe:
    return Recipe.from_document({**recipe.document(), name: options.model_dump(mode="json")})


def _sections_on_the_way(recipe: Recipe, path: str) -> dict[str, Any]:
    """The optional sections around a field that the recipe has switched off, switched on at their defaults."""
    parts = path.split(".")[:-1]
    document: Any = recipe.document()
    for end, part in enumerate(parts, start=1):
        document = document.get(part)
        if document is None:
            return {".".join(parts[:end]): {}}
    return {}


def _value(document: Any, path: str) -> Any:
    for part in path.split("."):
        document = document[part]
    return document


def _annotation(path: str) -> Any:
    from nexa.recipe.views import field_at

    field = field_at(path)
    assert field is not None, path
    return field.annotation


def _plain(annotation: Any) -> Any:
    """The annotation without bounds around it."""
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation


def _choices(annotation: Any) -> list[Any]:
    """Every value that the annotation lists as a choice."""
    plain = _plain(annotation)
    if get_origin(plain) is Literal:
        return list(get_args(plain))
    return [choice for option in get_args(plain) for choice in _choices(option)]


def _guesses(annotation: Any, before: Any) -> Iterator[Any]:
    """Values that a field of this type may take, likeliest first."""
    yield from (choice for choice in _choices(annotation) if choice != before)
    if isinstance(before, bool) or _holds(annotation, bool):
        yield from (value for value in (True, False) if value is not before)
        return
    if _holds(annotation, int):
        yield from (value for value in (_next(before), 2 * _next(before), 1000, 2, 1) if value != before)
    if _holds(annotation, float):
        yield from (value for value in (0.25, 0.5, 0.75, 2.5) if value != before)
    if _holds(annotation, str):
        yield from (value for value in ("other", "2h", "2G") if value != before)
    if _holds(annotation, list):
        yield ["other"]
    if _holds(annotation, dict):
        yield {"other": "value"}


def _next(before: Any) -> int:
    return int(before or 0) + 1


def _holds(annotation: Any, kind: type) -> bool:
    plain = _plain(annotation)
    if plain is kind or get_origin(plain) is kind:
        return True
    return get_origin(plain) is not Literal and any(_holds(option, kind) for option in get_args(plain) if option)
