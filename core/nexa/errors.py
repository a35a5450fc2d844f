"""Every error Nexa raises on purpose, and the problem records they carry.

NexaError                 exit code 1: the run or the machine failed
├── UserError             exit code 2: what was typed or written must change
│   ├── RecipeError       one or more problems in a recipe, each with its place
│   ├── DataError         a data file is missing, empty or malformed
│   ├── RewardError       a reward raised, or its score is no finite number
│   ├── PluginError       a plugin is unknown, duplicated or fails to load
│   └── RunError          a run does not exist or can't do what was asked
├── ArtifactError         an artifact is damaged, missing or can't be stored
│   └── ArtifactExistsError  the name to commit under is taken
└── WorkerError           a worker failed while training

The command line prints `str(error)` and exits with `error.exit_code`; a traceback is never shown
for these. Standard library only: workers in other environments import this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NexaError(Exception):
    """Base of every error that Nexa raises on purpose.

    The message says what failed and why; `hint` says what is available or what to type.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UserError(NexaError):
    """Something the user typed or wrote must change before the command can work."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a recipe or its data, and where it stands.

    `path` is the dotted key ("training.max_steps"); `file`, `line` and `column` (both from 1) are
    None where the value came from a flag or a default. `hint` says what to type instead.
    """

    message: str
    path: str | None = None
    file: str | None = None
    line: int | None = None
    column: int | None = None
    hint: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        text = ": ".join(part for part in (place, self.path, self.message) if part)
        return f"{text} ({self.hint})" if self.hint else text


class RecipeError(UserError):
    """A recipe can't be used; carries every problem found, not just the first."""

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        if not problems:
            raise AssertionError("a RecipeError needs at least one problem")
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems), hint=hint)


class DataError(UserError):
    """A data file is missing, empty or malformed; the message names file and row."""


class RewardError(UserError):
    """A reward raised, or gave a score that is no finite number; the message names reward, row and answer."""


class PluginError(UserError):
    """A plugin is unknown, provided twice, not allowed, or fails to load."""


class RunError(UserError):
    """A run does not exist, is ambiguous, or is in no state to do what was asked."""


class ArtifactError(NexaError):
    """An artifact is damaged, missing, or can't be stored."""


class ArtifactExistsError(ArtifactError):
    """The name to commit under belongs to an artifact already; artifacts are never replaced."""


class WorkerError(NexaError):
    """A worker failed while training."""
