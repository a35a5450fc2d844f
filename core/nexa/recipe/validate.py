"""A merged tree against the schema, the plugins' own sections, and what is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from nexa.errors import PluginError, Problem
from nexa.plugins import get_host
from nexa.recipe.chain import problem_at
from nexa.recipe.node import Node, set_path
from nexa.recipe.problems import closest, explain, model_at, unknown_key
from nexa.recipe.schema import Recipe
from nexa.recipe.sections.outputs import MAX_OBSERVERS
from nexa.recipe.sections.rollouts import MAX_REWARDS
from nexa.uris import is_uri

if TYPE_CHECKING:
    from nexa.specs import BackendSpec

OWN_KEYS = frozenset(Recipe.model_fields) - {"plugin_options"}


class _NoOptions(BaseModel):
    """The options of a reward that takes none."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


def validate_tree(root: Node) -> tuple[Recipe | None, list[Problem]]:
    """The recipe a merged tree holds, None where it is not valid, and every problem found."""
    assert isinstance(root.value, dict)
    root = _without_resets(root, Recipe)
    problems: list[Problem] = []
    own: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    for key, node in root.value.items() if isinstance(root.value, dict) else ():
        if key in OWN_KEYS:
            own[key] = node.plain()
            continue
        section, found = _plugin_section(key, node)
        problems += found
        if section is not None:
            options[key] = section
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate({**own, "plugin_options": options})
    except ValidationError as error:
        problems += explain(error, root, Recipe)
    problems += _check_names(root)
    problems += _check_rewards(root)
    return recipe, problems


def _without_resets(node: Node, schema: type[BaseModel], path: tuple[str, ...] = ()) -> Node:
    """The tree without the nulls that take a field back to its default."""
    if not isinstance(node.value, dict):
        return node
    section = model_at(schema, path)
    for key, child in node.value.items():
        field = section.model_fields.get(key) if section is not None else None
        if field is None:
            continue
        if child.value is None and type(None) not in get_args(field.annotation):
            node = set_path(node, (key,), None)
        elif isinstance(child.value, dict):
            node = set_path(node, (key,), _without_resets(child, schema, (*path, key)))
    return node


def _plugin_section(key: str, node: Node) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The validated options in a top-level section that is not the recipe's own."""
    host = get_host()
    try:
        model = host.options_model(key) if key != "plugin_options" else None
    except PluginError as error:
        return None, [problem_at(node.key, error.message, path=key, hint=error.hint)]
    if model is None:
        return None, [unknown_key(key, node.key, key, [*OWN_KEYS, *host.option_sections()])]
    node = _without_resets(node, model)
    try:
        options = model.model_validate({} if node.value is None else node.plain())
    except ValidationError as error:
        return None, explain(error, node, model, (key,))
    return options.model_dump(mode="json"), []


def _check_names(root: Node) -> Iterator[Problem]:
    """Problems with the names of plugins, and with a method that the backend does not train."""
    host = get_host()
    backend = _text(root, "backend")
    try:
        spec = host.spec("backend", backend)
    except PluginError as error:
        yield _name_problem(root, ("backend",), error)
    else:
        yield from _check_method(root, spec)
    try:
        host.spec("scheduler", _text(root, "scheduler"))
    except PluginError as error:
        yield _name_problem(root, ("scheduler",), error)
    store = root.find(("artifacts", "store_uri"))
    if store is not None and isinstance(store.value, str) and is_uri(store.value):
        try:
            host.spec("artifact-store", store.value.partition(":")[0])
        except PluginError as error:
            yield _name_problem(root, ("artifacts", "store_uri"), error)
    observers = root.find(("tracking", "observers"))
    named = observers.value if observers is not None and isinstance(observers.value, list) else []
    for index, observer in enumerate(named[:MAX_OBSERVERS]):
        if not isinstance(observer.value, str):
            continue
        try:
            host.spec("observer", observer.value)
        except PluginError as error:
            yield _name_problem(root, ("tracking", "observers", index), error)


def _check_rewards(root: Node) -> Iterator[Problem]:
    """Problems with the names of rewards, and with the options of each."""
    listed = root.find(("rollouts", "rewards"))
    rewards = listed.value if listed is not None and isinstance(listed.value, list) else []
    for index, reward in enumerate(rewards[:MAX_REWARDS]):
        name = reward.child("name")
        if name is None or not isinstance(name.value, str):
            continue
        path = ("rollouts", "rewards", str(index))
        try:
            model = get_host().options_of("reward", name.value) or _NoOptions
        except PluginError as error:
            yield problem_at(name.origin, error.message, path=".".join([*path, "name"]), hint=error.hint)
            continue
        options = reward.child("options") or Node({}, reward.origin)
        try:
            model.model_validate(options.plain())
        except ValidationError as error:
            yield from explain(error, options, model, (*path, "options"))


def _check_method(root: Node, backend: BackendSpec) -> Iterator[Problem]:
    node = root.child("method")
    if node is None or not isinstance(node.value, str):
        return
    host = get_host()
    try:
        if host.trains(backend, node.value):
            return
    except PluginError as error:
        yield _name_problem(root, ("method",), error)
        return
    methods = host.methods(backend)
    close = closest(node.value, methods)
    if close:
        hint = f"did you mean {close!r}?"
    else:
        others = [
            spec.name for spec in host.specs("backend") if node.value in host.methods(host.spec("backend", spec.name))
        ]
        hint = f"methods: {', '.join(methods)}" + (f"; it is trained by: {', '.join(others)}" if others else "")
    yield problem_at(node.origin, f"backend {backend.name!r} does not train {node.value!r}", path="method", hint=hint)


def _text(root: Node, key: str) -> str:
    """The text at a top-level key, else the field's default."""
    node = root.child(key)
    return node.value if node is not None and isinstance(node.value, str) else str(Recipe.model_fields[key].default)


def _name_problem(root: Node, path: tuple[str | int, ...], error: PluginError) -> Problem:
    node = root.find(path)
    return problem_at(
        node.origin if node is not None else None,
        error.message,
        path=".".join(str(part) for part in path),
        hint=error.hint,
    )
