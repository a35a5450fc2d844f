"""Continues a run whose model and data come from a script: the script runs again, and its `Trainer` takes the run over.

What it does up to `Trainer.train` makes model and data as before; `train` then goes on from the checkpoint in this
worker's place instead of beginning a run, and what is behind it runs as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexa.errors import UserError, WorkerError
from nexa.worker.place import read_plan
from nexa.worker.script import Script

if TYPE_CHECKING:
    from nexa.backend import RunResult
    from nexa.worker.context import RunContext

PLAN_KEY = "script"
"""Where a run's plan holds the script as it was started."""


@dataclass
class Rerun:
    """A script under way again. context: of the run that its trainer continues; result: from then on."""

    context: RunContext
    result: RunResult | None = None


class ScriptEnded(SystemExit):
    """Ends a script whose run was stopped, when it asks for more training."""


_CURRENT: ContextVar[Rerun | None] = ContextVar("rerun", default=None)


def current_rerun() -> Rerun | None:
    """The run that this process's script shall continue, None where it was started by a person."""
    return _CURRENT.get()


def continue_by_script(context: RunContext) -> RunResult:
    """Start the script of a run again and return how the training that it continued went.

    Raises RunError where the script can't be started, UserError where it does not call `Trainer.train`, and
    what it raises.
    """
    plan = read_plan(context.run_dir, context.attempt)
    document: Mapping[str, object] | None = plan.get(PLAN_KEY)
    if document is None:
        raise UserError(
            f"{plan['recipe']['model']['name']} is a model of a script, which has to be run again to train it",
            hint="in the script: trainer.train(resume_from_checkpoint=True)",
        )
    script, rerun = Script.from_document(document), Rerun(context)
    script.require_startable(context.run_id)
    token = _CURRENT.set(rerun)
    try:
        script.start()
    except SystemExit as ending:
        if rerun.result is not None and ending.code not in (None, 0):
            raise WorkerError(f"the script exited with {ending.code} behind its training") from ending
    finally:
        _CURRENT.reset(token)
    if rerun.result is None:
        raise UserError(
            f"{script.path or script.module} ended without continuing the run: it calls no Trainer.train()",
            hint=f"make the same Trainer as before and call: trainer.train(resume_from_checkpoint={context.run_id!r})",
        )
    return rerun.result
