"""Whether every recipe field has an effect on a backend, or an answer that says otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
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
    findings = []
    before = _Seen(backend, recipe)
    for mutation in mutations(recipe, options):
        if mutation.base is not before.recipe:
            before = _Seen(backend, mutation.base)
        effect = _effect(mutation, before, _Seen(backend, mutation.changed))
        findings.append(Finding(path=mutation.path, before=mutation.before, value=mutation.value, effect=effect))
    return findings


def ignored(findings: Sequence[Finding]) -> list[str]:
    """The changes that had no effect, as "path = value".

    Where a field was unset or "auto", one value may be what that stands for, as long as another has an effect.
    """
    effective = {finding.path for finding in findings if finding.effect is not Effect.IGNORED}
    without = [finding for finding in findings if finding.effect is Effect.IGNORED]
    times = Counter(finding.path for finding in without)
    return [
        f"{finding.path} = {finding.value!r}"
        for finding in without
        if finding.before not in (None, "auto") or finding.path not in effective or times[finding.path] > 1
    ]


class _Seen:
    """A recipe as a backend sees it, each view taken once."""

    def __init__(self, backend: Backend, recipe: Recipe) -> None:
        self.recipe = recipe
        self._backend = backend

    @cached_property
    def answers(self) -> dict[str, tuple[Answer, str]]:
        """Answer and detail by field; options of plugins have none."""
        return {answer.path: (answer.answer, answer.detail) for answer in self._backend.settings(self.recipe)}

    @cached_property
    def configuration(self) -> Mapping[str, Any] | None:
        """What the trainer is given; None where it takes no such recipe, which `check` tells."""
        try:
            return self._backend.effective(self.recipe)
        except UserError:
            return None

    @cached_property
    def problems(self) -> set[tuple[str | None, str]]:
        """What stops the recipe."""
        return {(problem.path, problem.message) for problem in self._backend.check(self.recipe)}


def _effect(mutation: Mutation, before: _Seen, after: _Seen) -> Effect:
    old, new = before.answers.get(mutation.path), after.answers.get(mutation.path)
    if new is not None and new[0] is Answer.REFUSED:
        return Effect.REFUSED
    if before.configuration != after.configuration:
        return Effect.EFFECTIVE
    if after.problems - before.problems:
        return Effect.REFUSED
    return Effect.TRANSLATED if old != new else Effect.IGNORED
