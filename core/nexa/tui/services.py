"""What the screens work with, handed in from outside: settings, clock, and the functions that act on runs.

Tests inject their own; nothing here imports Textual.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.errors import UserError
from nexa.settings import Settings
from nexa.tui.preferences import Preferences

if TYPE_CHECKING:
    from nexa.plan import Plan
    from nexa.plugins import PluginHost
    from nexa.runs.state import RunStatus
    from nexa.runs.store import Run, RunStore
    from nexa.scheduler import Attempt


def _launch(plan: Plan, argv: Sequence[str]) -> Run:
    from nexa.launching import launch_plan

    return launch_plan(plan, argv=argv)


def _stop(run: Run) -> Any:
    from nexa.runs.actions import stop

    return stop(run)


def _kill(run: Run) -> Any:
    from nexa.runs.actions import kill

    return kill(run)


def _resume(run: Run, checkpoint: str | None) -> Attempt:
    from nexa.runs.actions import resume

    return resume(run, checkpoint=checkpoint)


def _requeue(run: Run) -> RunStatus:
    from nexa.runs.actions import requeue

    return requeue(run)


def _host() -> PluginHost:
    from nexa.plugins import get_host

    return get_host()


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything a screen may use beyond its own widgets.

    settings: folders and defaults in force. readonly: whether actions on runs are refused. ascii:
    whether only ASCII is drawn. clock: unix seconds now. host: the plugin host, loaded on first use.
    launch, stop, kill, requeue, resume: the functions that the commands call; all may block, so screens
    call them in worker threads. launch takes a plan and the command line to record, resume a
    checkpoint's name, None for the newest.
    """

    settings: Settings
    readonly: bool = False
    ascii: bool = False
    clock: Callable[[], float] = time.time
    preferences: Preferences = field(default_factory=Preferences)
    host: Callable[[], PluginHost] = _host
    launch: Callable[[Plan, Sequence[str]], Run] = _launch
    stop: Callable[[Run], Any] = _stop
    kill: Callable[[Run], Any] = _kill
    requeue: Callable[[Run], Any] = _requeue
    resume: Callable[[Run, str | None], Attempt] = _resume

    @property
    def runs_dir(self) -> Path:
        """Folder of run directories."""
        return self.settings.runs_dir

    @property
    def store(self) -> RunStore:
        """The run store in `runs_dir`."""
        from nexa.runs.store import RunStore

        return RunStore(self.runs_dir)

    def require_writable(self, what: str) -> None:
        """Raise UserError, naming `what` is refused, when the UI was opened read-only."""
        if self.readonly:
            raise UserError(f"can't {what}: this view is read-only", hint="open it without --readonly")
