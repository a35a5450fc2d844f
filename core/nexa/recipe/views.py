"""Views of the recipe: other names for its fields, as attributes, flags and variables have them.

A view adds names, never fields: every name stands for a key of `nexa.recipe.schema.Recipe`, whose
types, defaults and rules hold. The keys themselves are names, too.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from nexa.errors import RecipeError, UserError
from nexa.recipe.node import Node, Origin, from_plain
from nexa.recipe.problems import closest, explain, model_at
from nexa.recipe.schema import Recipe

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from nexa.recipe.load import RecipeTree


@dataclass(frozen=True, kw_only=True)
class ViewName:
    """One name of a view.

    name: dotted, as in `config.training.batch_size`. path: the recipe key it stands for. resets: keys
    taken back to their defaults along with it, since they would contradict it.
    """

    name: str
    path: str
    resets: tuple[str, ...] = ()


CONFIG_NAMES: tuple[ViewName, ...] = (
    ViewName(name="task", path="method"),
    ViewName(name="training.epochs", path="training.epochs", resets=("training.max_steps",)),
    ViewName(name="training.max_steps", path="training.max_steps", resets=("training.epochs",)),
    ViewName(
        name="training.batch_size", path="training.microbatch_size_per_gpu", resets=("training.global_batch_size",)
    ),
    ViewName(name="training.gradient_accumulation_steps", path="training.grad_accumulation_steps"),
    ViewName(name="training.gradient_clip_val", path="training.max_grad_norm"),
    ViewName(name="training.lr", path="optimizer.lr"),
    ViewName(name="training.weight_decay", path="optimizer.weight_decay"),
    ViewName(name="training.warmup_steps", path="optimizer.scheduler.warmup_steps"),
    ViewName(name="training.scheduler_type", path="optimizer.scheduler.name"),
    ViewName(name="optimizer.learning_rate", path="optimizer.lr"),
    ViewName(name="optimizer.warmup_steps", path="optimizer.scheduler.warmup_steps"),
    ViewName(name="logging.log_dir", path="tensorboard.log_dir"),
    ViewName(name="logging.log_interval", path="training.log_every_steps"),
    ViewName(name="logging.eval_interval", path="training.eval_every_steps"),
    ViewName(name="checkpoint.checkpoint_dir", path="artifacts.store_uri"),
    ViewName(name="checkpoint.save_interval", path="training.save_every_steps"),
    ViewName(name="checkpoint.keep_last", path="checkpointing.keep_last"),
    ViewName(name="distributed.num_nodes", path="cluster.num_nodes"),
    ViewName(name="distributed.gpus_per_node", path="cluster.gpus_per_node"),
    ViewName(name="distributed.processes_per_node", path="cluster.processes_per_node"),
)
"""The names that `Config`, its flags and its variables add to the recipe's own keys."""

_BY_NAME = {row.name: row for row in CONFIG_NAMES}


def find_name(name: str) -> ViewName:
    """The row of a name: one of the view's, or a recipe key. Raises UserError naming the nearest."""
    row = _BY_NAME.get(name)
    if row is not None:
        return row
    if not known_key(name):
        raise unknown_name(name, [*section_names(""), *all_names()] if "." not in name else all_names())
    return ViewName(name=name, path=name)


def unknown_name(name: str, known: Iterable[str], *, what: str = "setting") -> UserError:
    """The error for a name that no view has; says the nearest."""
    names = list(known)
    close = closest(name, names)
    if close is None:
        last = name.rpartition(".")[2]
        close = next((other for other in names if other.rpartition(".")[2] == last), None)
    hint = f"did you mean {close}?" if close else "every key is described by: nexa recipe schema"
    return UserError(f"there is no {what} {name}", hint=hint)


@cache
def all_names() -> tuple[str, ...]:
    """Every name of the view and every key of a leaf of the recipe; of plugin sections none."""
    return tuple(dict.fromkeys([*_BY_NAME, *(path for path in _leaves(Recipe, ""))]))


def section_names(prefix: str) -> tuple[str, ...]:
    """What stands directly below a dotted name ("" for the top): fields and sections, in schema order."""
    start = f"{prefix}." if prefix else ""
    own = [name.removeprefix(start).partition(".")[0] for name in all_names() if name.startswith(start)]
    plugin = (
        _section_model(prefix.split(".")[0]) if prefix and prefix.split(".")[0] not in Recipe.model_fields else None
    )
    if plugin is not None:
        section = model_at(plugin, prefix.split(".")[1:])
        own += list(section.model_fields) if section is not None else []
    return tuple(dict.fromkeys(own))


def is_section(name: str) -> bool:
    """Whether a dotted name holds other names: a section of the recipe, of a plugin or of the view."""
    return _model_for(name) is not None or any(other.startswith(f"{name}.") for other in all_names())


def known_key(path: str) -> bool:
    """Whether a dotted key is a field, a section, or an entry of a free mapping (`meta.mine`) of the recipe."""
    parts = path.split(".")
    if _model_for(path) is not None or field_at(path) is not None:
        return True
    return any(_is_mapping(field_at(".".join(parts[:end]))) for end in range(1, len(parts)))


def field_at(path: str) -> FieldInfo | None:
    """The schema's field at a dotted key, plugin sections included; None where there is none."""
    section, _, name = path.rpartition(".")
    model = _model_for(section)
    field = model.model_fields.get(name) if model is not None else None
    return None if field is None or field.exclude else field


def value_at(root: Node, path: str) -> Any:
    """The value of a field in a tree, or its default: what a complete recipe would hold.

    None where the field is required and not given, or belongs to a section that is switched off.
    """
    parts = path.split(".")
    node: Node | None = root
    for end, part in enumerate(parts):
        node = node.child(part) if node is not None else None
        if (node is None or node.value is None) and end + 1 < len(parts):
            field = field_at(".".join(parts[: end + 1]))
            if field is not None and not field.is_required() and field.default is None:
                return None
    field = field_at(path)
    if node is None or (node.value is None and not _takes_null(field)):
        return None if field is None or field.is_required() else _plain(field.get_default(call_default_factory=True))
    return node.plain()


def document_of(root: Node) -> dict[str, Any]:
    """The tree as a recipe document with every default filled in; what is required and missing stays out."""
    document = _with_defaults(root, Recipe)
    for key, node in root.value.items() if isinstance(root.value, dict) else ():
        if key not in Recipe.model_fields:
            model = _section_model(key)
            document[key] = _with_defaults(node, model) if model is not None else node.plain()
    return document


def checked_node(path: str, value: Any, origin: Origin) -> Node:
    """A value for a field, as a node; paths, enumerations, tuples and dataclasses become plain values.

    Raises RecipeError where the field does not take it.
    """
    plain = _plain(value)
    node = from_plain(plain, origin)
    field = field_at(path)
    if field is None or plain is None or isinstance(plain, dict) or _model_for(path) is not None:
        return node
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(plain)
    except ValidationError as error:
        raise RecipeError(explain(error, node, Recipe, path.split("."))) from None
    return node


def parsed_node(path: str, text: str, origin: Origin) -> Node:
    """A value given as text, as a node: taken as it is where the field is text alone, else read as YAML.

    Raises RecipeError where it is no YAML scalar, list or mapping on one line.
    """
    from nexa.recipe.load import parse_override

    field = field_at(path)
    if field is not None and str in _members(field.annotation) and not _members(field.annotation) - {str, type(None)}:
        return from_plain(None if text == "null" else text, origin)
    _, node, _ = parse_override(f"{path}={text}")
    return from_plain(node.plain(), origin)


def leaf_values(document: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe document by dotted key; a free mapping (`meta`) is one value."""
    found: dict[str, Any] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, dict) and is_section(path):
            for key, child in value.items():
                visit(child, f"{path}.{key}")
        else:
            found[path] = value

    for key, value in document.items():
        visit(value, key)
    return found


def boolean_words(path: str) -> tuple[str, ...]:
    """What a yes-or-no field takes, as text: true, false and the names it has beside them; else nothing."""
    field = field_at(path)
    members = _members(field.annotation) if field is not None else set()
    if bool not in members:
        return ()
    names = [str(name) for member in members for name in get_args(member)]
    return ("true", "false", *sorted(names))


def put(tree: RecipeTree, row: ViewName, node: Node) -> RecipeTree:
    """The tree with a name's value, and with what contradicts it taken back."""
    for key in row.resets:
        if tree.root.find(key.split(".")) is not None:
            tree = tree.typed(key, Node(None, node.origin))
    return tree.typed(row.path, node)


def _leaves(model: type[BaseModel], prefix: str) -> list[str]:
    """Dotted keys of all fields below a section that hold values, those of sections that may be null too."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        section = model_at(model, (name,))
        keys += _leaves(section, f"{prefix}{name}.") if section is not None else [f"{prefix}{name}"]
    return keys


def _model_for(path: str) -> type[BaseModel] | None:
    """The section model at a dotted key ("" for the recipe itself), plugin sections included."""
    if not path:
        return Recipe
    first, _, rest = path.partition(".")
    if first in Recipe.model_fields:
        return model_at(Recipe, path.split("."))
    model = _section_model(first)
    return model_at(model, rest.split(".")) if model is not None and rest else model


@cache
def _section_model(section: str) -> type[BaseModel] | None:
    """The model of a plugin's section; None where no plugin has such a section."""
    from nexa.plugins import get_host

    if section in _BY_NAME or any(name.startswith(f"{section}.") for name in _BY_NAME):
        return None
    return get_host().options_model(section)


def _with_defaults(node: Node, model: type[BaseModel]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    children = node.value if isinstance(node.value, dict) else {}
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        child = children.get(name)
        section = model_at(model, (name,))
        absent = child is None or (child.value is None and not _takes_null(field))
        if section is not None and (absent or (child is not None and isinstance(child.value, dict))):
            if absent and not field.is_required() and field.default is None:
                document[name] = None
            else:
                filled = _with_defaults(child if child is not None else Node({}, node.origin), section)
                if filled or not field.is_required():
                    document[name] = filled
        elif child is not None and not absent:
            document[name] = child.plain()
        elif not field.is_required():
            document[name] = _plain(field.get_default(call_default_factory=True))
    for name, child in children.items():
        if name not in model.model_fields and model is not Recipe:
            document[name] = child.plain()
    return document


def _takes_null(field: FieldInfo | None) -> bool:
    return field is None or type(None) in _members(field.annotation)


def _is_mapping(field: FieldInfo | None) -> bool:
    return field is not None and get_origin(field.annotation) is dict


def _members(annotation: Any) -> set[Any]:
    """The plain types that an annotation admits, without its constraints."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return set().union(*(_members(member) for member in get_args(annotation)))
    return {annotation}


def _plain(value: Any) -> Any:
    """Values of Python code as a recipe holds them."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(child) for child in value]
    return value
