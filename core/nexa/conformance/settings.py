"""Whether every recipe field has an effect on a backend, or an answer that says otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nexa.backend import Answer
from nexa.conformance.mutations import Mutation, mutations
from nexa.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from nexa.backend import Backend
    from nexa.recipe.schema import Recipe


class Effect(StrEnum):
    """What followed from one changed field.

    effective: the trainer's configuration changed. refused: the
    backend's answer for the new value is a refusal, or its check finds a problem that was not there.
    translated: the answer changed. ignored: none of these, so that the setting is lost in silence.
    """

    EFFECTIVE = "effective"
    REFUSED = "refused"
    TRANSLATED = "translated"
    IGNORED = "ignored"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What followed from one changed field; before and value are its old and new value, as JSON values."""

    path: str
    before: Any
    value: Any
    effect: Effect


def audit_settings(
    backend: Backend, recipe: Recipe, options: Mapping[str, type[BaseModel]] | None = None
) -> list[Finding]:
    """Change every field of the recipe in turn and return what followed from each, in schema order.

    Fields that Nexa acts on itself (`nexa.settings_report.CORE_FIELDS`) are not among them. options: models
    of the plugin sections that the backend answers for, by name. Raises UserError when the backend does
    not show its effective configuration for `recipe` itself.
    """
    backend.effective(recipe)
    return [
        Finding(
            path=mutation.path,
            before=mutation.before,
            value=mutation.value,
            effect=_effect(backend, mutation),
        )
        for mutation in mutations(recipe, options)
    ]


def ignored(findings: Sequence[Finding]) -> list[str]:
    """The changes that had no effect, as "path = value".

    Where a field was "auto", one of its choices is what auto stands for, and changes nothing.
    """
    without = [finding for finding in findings if finding.effect is Effect.IGNORED]
    same_as_auto = {finding.path for finding in findings if finding.before == "auto"}
    counts = Counter(finding.path for finding in without)
    return [
        f"{finding.path} = {finding.value!r}"
        for finding in without
        if finding.path not in same_as_auto or counts[finding.path] > 1
    ]


def _effect(backend: Backend, mutation: Mutation) -> Effect:
    before, after = _answer(backend, mutation.base, mutation.path), _answer(backend, mutation.changed, mutation.path)
    if after is not None and after[0] is Answer.REFUSED:
        return Effect.REFUSED
    if _configuration(backend, mutation.base) != _configuration(backend, mutation.changed):
        return Effect.EFFECTIVE
    if _problems(backend, mutation.changed) - _problems(backend, mutation.base):
        return Effect.REFUSED
    return Effect.TRANSLATED if before != after else Effect.IGNORED


def _answer(backend: Backend, recipe: Recipe, path: str) -> tuple[Answer, str] | None:
    """The backend's answer for one field; None for an option of a plugin, which has none."""
    answers = {answer.path: (answer.answer, answer.detail) for answer in backend.settings(recipe)}
    return answers.get(path)


def _configuration(backend: Backend, recipe: Recipe) -> Mapping[str, Any] | None:
    """What the trainer is given; None where it takes no such recipe, which `check` tells."""
    try:
        return backend.effective(recipe)
    except UserError:
        return None


def _problems(backend: Backend, recipe: Recipe) -> set[tuple[str | None, str]]:
    return {(problem.path, problem.message) for problem in backend.check(recipe)}
