"""Stop, kill, resume, requeue and verify, the same on every screen that shows runs.

Each asks first, naming the runs, then calls the function that the command of that name calls, in a
thread, and says how it went.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textual import work

from nexa.errors import NexaError, UserError
from nexa.tui.screens.base import NexaScreen
from nexa.tui.services import Services
from nexa.tui.threads import defects_told

if TYPE_CHECKING:
    from nexa.runs.store import Run

NEWEST = "newest"


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something that is done to runs after a question.

    verb: on the button and in the question. meaning: what happens, said before. done: said after, for
    one run. call: does it; may block, raises NexaError. dangerous: whether work may be lost.
    """

    verb: str
    meaning: str
    done: str
    call: Callable[[Services, Run], Any]
    dangerous: bool = False


ACTIONS: dict[str, Action] = {
    "stop": Action(
        verb="Stop",
        meaning="It saves a checkpoint at its next step, then ends. Resume continues it exactly.",
        done="is saving a checkpoint and will end",
        call=lambda services, run: services.stop(run),
    ),
    "kill": Action(
        verb="Kill",
        meaning="All its processes end at once. What was trained since the last checkpoint is lost.",
        done="was killed",
        call=lambda services, run: services.kill(run),
        dangerous=True,
    ),
    "requeue": Action(
        verb="Requeue",
        meaning="Its job goes back into the queue and continues from its newest checkpoint when it starts again.",
        done="is in the queue again",
        call=lambda services, run: services.requeue(run),
        dangerous=True,
    ),
}
"""By the name of the key's action."""


class RunActions(NexaScreen):
    """A screen whose keys act on runs; subclasses say on which."""

    def targets(self) -> Sequence[str]:
        """Ids of the runs that an action is about; empty when there is none."""
        return []

    def action_stop(self) -> None:
        """Ask, then stop."""
        self._ask("stop")

    def action_kill(self) -> None:
        """Ask, then kill."""
        self._ask("kill")

    def action_requeue(self) -> None:
        """Ask, then requeue."""
        self._ask("requeue")

    def action_resume(self) -> None:
        """Let a checkpoint be chosen, then resume from it."""
        self._choose_checkpoint()

    def action_verify(self) -> None:
        """Hash the runs' checkpoints against their manifests."""
        run_ids = self.targets()
        if run_ids:
            self.tell(f"verifying the checkpoints of {_names(run_ids)} …", severity="information")
            self._verify_in_thread(run_ids)

    @work
    async def _ask(self, name: str) -> None:
        from nexa.tui.widgets.dialogs import Question

        action, run_ids = ACTIONS[name], list(self.targets())
        if not self._allowed(name, run_ids):
            return
        question = Question(
            f"{action.verb} {_names(run_ids)}?", action.meaning, verb=action.verb, dangerous=action.dangerous
        )
        if await self.app.push_screen_wait(question):
            self._act_in_thread(name, run_ids)

    @work(thread=True, group="act")
    def _act_in_thread(self, name: str, run_ids: Sequence[str]) -> None:
        action = ACTIONS[name]
        for run_id in run_ids:
            try:
                with defects_told(name):
                    action.call(self.services, self.services.store.open(run_id))
            except NexaError as error:
                self.deliver(self.tell, error)
            else:
                self.deliver(self.inform, f"{run_id} {action.done}")
        self.deliver(self.read_now)

    @work
    async def _choose_checkpoint(self) -> None:
        from nexa.tui.widgets.dialogs import Choice, Question

        run_ids = list(self.targets())
        if not self._allowed("resume", run_ids):
            return
        if len(run_ids) > 1:
            question = Question(
                f"Resume {_names(run_ids)}?", "Each continues from its newest checkpoint.", verb="Resume"
            )
            if await self.app.push_screen_wait(question):
                self._resume_in_thread(run_ids, None)
            return
        checkpoints = await self._checkpoints_in_thread(run_ids[0]).wait()
        if checkpoints is None:
            return
        title = f"Resume {run_ids[0]}?"
        if not checkpoints:
            question = Question(title, "It has no checkpoint and begins anew from its first step.", verb="Resume")
            if await self.app.push_screen_wait(question):
                self._resume_in_thread(run_ids, None)
            return
        newest = (NEWEST, "its newest checkpoint that verifies")
        options = [newest, *((name, name.rpartition("/")[2]) for name in reversed(checkpoints))]
        chosen = await self.app.push_screen_wait(Choice(title, "It continues exactly from:", options))
        if chosen is not None:
            self._resume_in_thread(run_ids, None if chosen == NEWEST else chosen)

    @work(thread=True, group="act")
    def _checkpoints_in_thread(self, run_id: str) -> list[str] | None:
        """Names of the run's checkpoints, oldest first; None, after saying so, when they can't be listed."""
        from nexa.runs.actions import open_store

        try:
            run = self.services.store.open(run_id)
            return [artifact.name for artifact in open_store(run).list(f"checkpoints/{run.run_id}")]
        except NexaError as error:
            self.deliver(self.tell, error)
            return None

    @work(thread=True, group="act")
    def _resume_in_thread(self, run_ids: Sequence[str], checkpoint: str | None) -> None:
        for run_id in run_ids:
            try:
                with defects_told("resume"):
                    attempt = self.services.resume(self.services.store.open(run_id), checkpoint)
            except NexaError as error:
                self.deliver(self.tell, error)
            else:
                words = f"{run_id}: attempt {attempt.number} begins"
                self.deliver(self.inform, words)
        self.deliver(self.read_now)

    @work(thread=True, group="act")
    def _verify_in_thread(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            try:
                with defects_told("artifacts verify"):
                    damaged, whole = _verify(self.services.store.open(run_id))
            except NexaError as error:
                self.deliver(self.tell, error)
                continue
            if damaged:
                self.deliver(self.tell, f"{run_id} is damaged:\n" + "\n".join(damaged))
            else:
                words = f"{run_id}: {whole} checkpoint{'s' * (whole != 1)} verified, every file as its manifest says"
                self.deliver(self.inform, words)

    def _allowed(self, name: str, run_ids: Sequence[str]) -> bool:
        """Whether an action may go on; says why not."""
        try:
            self.services.require_writable(f"{name} a run")
            if not run_ids:
                raise UserError(f"there is no run to {name}")
        except UserError as error:
            self.tell(error, severity="warning")
            return False
        return True


def _verify(run: Run) -> tuple[list[str], int]:
    """What is wrong with a run's checkpoints, in words, and how many are whole."""
    from nexa.runs.actions import open_store

    store = open_store(run)
    damaged: list[str] = []
    whole = 0
    for artifact in store.list(f"checkpoints/{run.run_id}"):
        problems = store.verify(artifact.name)
        whole += not problems
        damaged += [f"{artifact.name}: {problem.file}: {problem.message}" for problem in problems]
    return damaged, whole


def _names(run_ids: Sequence[str]) -> str:
    return run_ids[0] if len(run_ids) == 1 else f"{len(run_ids)} runs ({', '.join(run_ids)})"
