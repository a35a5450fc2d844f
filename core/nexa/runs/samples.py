"""The answers that a run sampled, first against newest: what training changed, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nexa.events.reader import EventReader

if TYPE_CHECKING:
    from nexa.runs.store import Run


@dataclass(frozen=True, kw_only=True)
class SampleChange:
    """The first and the newest answer to one prompt, and the optimizer steps after which they were sampled.

    Both are the same where the prompt was sampled once.
    """

    prompt: str
    first_step: int
    first: str
    last_step: int
    last: str


def sample_changes(run: Run) -> list[SampleChange]:
    """What became of each prompt over all attempts of a run, in the order in which prompts first appear."""
    changes: dict[str, SampleChange] = {}
    for attempt in run.attempts:
        for record in EventReader(attempt.events_path).poll():
            take_sample(changes, record)
    return list(changes.values())


def take_sample(changes: dict[str, SampleChange], record: Mapping[str, Any]) -> None:
    """Bring `changes`, by prompt, up to date with one event record; other types than "sample" change nothing."""
    if record.get("type") != "sample":
        return
    prompt, text = str(record.get("prompt", "")), str(record.get("text", ""))
    step = int(record.get("step") or 0)
    seen = changes.get(prompt)
    if seen is None:
        changes[prompt] = SampleChange(prompt=prompt, first_step=step, first=text, last_step=step, last=text)
    elif step >= seen.last_step:
        changes[prompt] = replace(seen, last_step=step, last=text)
