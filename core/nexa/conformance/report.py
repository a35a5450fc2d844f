"""One backend through the kit: a verdict for each check, and whether it conforms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from nexa.conformance.checks import CHECKS, Check
from nexa.conformance.lab import CheckError, Laboratory
from nexa.errors import PluginError, UserError
from nexa.plugins import PluginHost

_MOST_DETAILS = 8


class Verdict(StrEnum):
    """passed: no difference. differs: by design, as the backend declares. failed: an undeclared difference.
    skipped: the backend does not declare the capability that the check is about."""

    PASSED = "passed"
    DIFFERS = "differs"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check found. details: the differences, in words. reason: why they are by design, or why skipped."""

    name: str
    summary: str
    verdict: Verdict
    details: Sequence[str] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ConformanceReport:
    """The results of the checks that were made, in the kit's order."""

    backend: str
    results: Sequence[CheckResult]

    @property
    def conforms(self) -> bool:
        """Whether no check failed."""
        return all(result.verdict is not Verdict.FAILED for result in self.results)

    def document(self) -> dict[str, Any]:
        """The report as JSON values."""
        results = [
            {
                "check": result.name,
                "summary": result.summary,
                "verdict": result.verdict.value,
                "details": list(result.details),
                "reason": result.reason,
            }
            for result in self.results
        ]
        return {"schema": 1, "backend": self.backend, "conforms": self.conforms, "results": results}


def run_conformance(
    host: PluginHost,
    backend: str,
    folder: Path,
    *,
    only: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
) -> ConformanceReport:
    """Make the checks named in `only`, else all, with real runs below `folder`.

    overrides: recipe keys on top of the kit's recipe. on_result: told of each result as it comes. Raises
    UserError for an unknown check or override, PluginError for an unknown backend or a declared difference of no check.
    """
    chosen = [_check(name) for name in only] or list(CHECKS.values())
    lab = Laboratory(host, backend, folder, overrides or {})
    # What is wrong with the overrides is the caller's to hear, not a check's to find.
    lab.recipe("recipe")
    if unknown := set(lab.spec.conformance.differences) - set(CHECKS):
        raise PluginError(
            f"backend {backend!r} declares differences of unknown checks: {', '.join(sorted(unknown))}",
            hint=f"checks: {', '.join(CHECKS)}",
        )
    results = []
    for check in chosen:
        result = _made(check, lab)
        results.append(result)
        if on_result is not None:
            on_result(result)
    return ConformanceReport(backend=backend, results=results)


def _check(name: str) -> Check:
    if name not in CHECKS:
        close = get_close_matches(name, CHECKS, n=1)
        suggestion = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"there is no check {name!r}", hint=f"{suggestion}checks: {', '.join(CHECKS)}")
    return CHECKS[name]


def _made(check: Check, lab: Laboratory) -> CheckResult:
    if check.needs is not None and check.needs not in lab.spec.capabilities:
        reason = f"the backend does not declare the capability {check.needs!r}"
        return _result(check, Verdict.SKIPPED, reason=reason)
    try:
        details = _first(check.find(lab))
    except CheckError as error:
        details = [str(error)]
    declared = lab.spec.conformance.differences.get(check.name)
    if not details:
        return _result(check, Verdict.PASSED, reason="the declared difference does not show" if declared else "")
    if declared:
        return _result(check, Verdict.DIFFERS, details, reason=declared)
    return _result(check, Verdict.FAILED, details)


def _result(check: Check, verdict: Verdict, details: Sequence[str] = (), reason: str = "") -> CheckResult:
    return CheckResult(name=check.name, summary=check.summary, verdict=verdict, details=details, reason=reason)


def _first(differences: Iterable[str]) -> list[str]:
    """The first differences, and that there are more."""
    found = list(differences)
    more = len(found) - _MOST_DETAILS
    return [*islice(found, _MOST_DETAILS), f"… {more} more"] if more > 0 else found
