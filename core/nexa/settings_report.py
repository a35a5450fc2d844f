"""What a backend does with every recipe field, so that no setting is lost in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexa.backend import Answer, SettingAnswer
from nexa.errors import Problem

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa.recipe.sections.base import Section

CORE_FIELDS = frozenset(
    (
        *("schema_version", "extends", "description", "tags", "method", "backend", "scheduler", "run.name", "meta"),
        *(f"checkpointing.{key}" for key in ("keep_last", "keep_best", "monitor", "mode")),
        *(f"cluster.{key}" for key in ("num_nodes", "gpus_per_node", "processes_per_node", "cpus_per_node")),
        *(f"cluster.{key}" for key in ("memory_per_node", "time_limit", "stop_lead_seconds", "max_restarts")),
        *("artifacts.store_uri", "artifacts.labels", "tracking.observers"),
        *(f"environment.{key}" for key in ("name", "container", "runtime", "python", "mounts", "shm_size", "options")),
    )
)
"""Recipe fields that Nexa acts on itself, or hands to a scheduler, a store or an observer, whichever backend trains."""
ABSENT = object()
"""Stands for the value of a field whose section is null."""


@dataclass(frozen=True, kw_only=True)
class SettingLine:
    """A backend's answer for one field of one recipe.

    value: what the recipe says, as a JSON value. is_set: the value differs from the schema's default,
    so that a refusal stops the launch.
    """

    path: str
    value: Any
    is_set: bool
    answer: Answer
    detail: str = ""

    def document(self) -> dict[str, Any]:
        """The line as JSON values."""
        return {
            "path": self.path,
            "value": self.value,
            "is_set": self.is_set,
            "answer": self.answer.value,
            "detail": self.detail,
        }


def settings_report(recipe: Recipe, answers: Sequence[SettingAnswer]) -> list[SettingLine]:
    """Return one line per leaf field of the recipe schema, in schema order.

    A field the backend does not answer for counts as refused: silence must not pass for consent.
    Sections of plugins are not among them; each is validated by its own plugin's model.
    """
    by_path = {answer.path: answer for answer in answers}
    values = recipe.document()
    defaults = _defaults(type(recipe))
    lines = []
    for path in recipe.leaf_paths():
        answer = by_path.get(path) or SettingAnswer(
            path=path, answer=Answer.REFUSED, detail=f"backend {recipe.backend!r} gives no answer for it"
        )
        value = value_at(values, path)
        lines.append(
            SettingLine(
                path=path,
                value=None if value is ABSENT else value,
                is_set=value is not ABSENT and value != value_at(defaults, path),
                answer=answer.answer,
                detail=answer.detail,
            )
        )
    return lines


def refused_settings(lines: Sequence[SettingLine], *, backend: str) -> list[Problem]:
    """Return a problem for every refused field that the recipe sets away from its default."""
    return [
        Problem(
            path=line.path,
            message=f"backend {backend!r} refuses {line.value!r}: {line.detail or 'not supported'}",
            hint="remove the setting, or choose another backend",
        )
        for line in lines
        if line.answer is Answer.REFUSED and line.is_set
    ]


def _defaults(model: type[Section]) -> dict[str, Any]:
    """Defaults of a model's fields as nested JSON values, without the fields that have none.

    The fields of a section whose default is null have none either: whoever writes that section sets
    all of them.
    """
    from nexa.recipe.sections.base import section_of

    defaults: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None and (field.is_required() or field.default is not None):
            defaults[name] = _defaults(section)
        elif not field.is_required():
            defaults[name] = field.get_default(call_default_factory=True)
    return defaults


def value_at(document: Mapping[str, Any], path: str) -> Any:
    """Value at a dotted path of a recipe's document; `ABSENT` when a section on the way is null or missing."""
    value: Any = document
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return ABSENT
        value = value[key]
    return value
