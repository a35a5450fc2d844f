"""One worker's way through an Axolotl run: preparation, Axolotl's own configuration and training, the result.

Runs in Axolotl's interpreter; of Nexa it imports the standard-library part alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.backend import RunResult, RunState
from nexa.errors import UserError, WorkerError
from nexa.files import read_json
from nexa_axolotl import state as state_files
from nexa_axolotl.layout import Layout

if TYPE_CHECKING:
    from nexa.worker.context import RunContext

PREPARER = "NEXA_PREPARE_PYTHON"
"""Variable that names the interpreter which launched the run."""
SECTION = "axolotl"
_CHANGE_KEYS = "change these keys in the recipe or in its section axolotl"
_POLL_SECONDS = 0.1
_SETTLE_SECONDS = 60.0


def run_training(context: RunContext) -> RunResult:
    """Train as the recipe of `context` says; see `nexa.backend.Backend.run`."""
    layout = Layout(context.run_dir)
    preparation = Preparation(context, layout)
    preparation.begin()
    try:
        # Beside the preparation: both take seconds.
        hooks = _import_axolotl()
        prepared = preparation.finish()
    finally:
        preparation.close()
    _require_known_keys(context)
    session = hooks.Session(
        context=context,
        save_optimizer=bool((context.recipe.get("checkpointing") or {}).get("save_optimizer", True)),
        lineage={"dataset_hash": prepared["dataset_hash"]} if prepared.get("dataset_hash") else {},
    )
    hooks.open_session(session)
    resume = _resume_folder(context, layout)
    cfg = _load_configuration(layout, (hooks.SEEDING, hooks.PLUGIN), resume)
    try:
        _train(cfg)
    except hooks.TrainingStopped:
        _leave_group()
    finally:
        if context.rank == 0:
            for folder in (layout.output, layout.resume):
                shutil.rmtree(folder, ignore_errors=True)
    if session.stop_reason is not None and session.checkpoint is None and context.rank == 0:
        raise WorkerError(f"stopped before a checkpoint could be saved: {session.stop_reason}")
    return RunResult(
        state=RunState.COMPLETED if session.stop_reason is None else RunState.STOPPED,
        step=session.step,
        metrics=session.metrics,
        checkpoint=session.checkpoint,
    )


class Preparation:
    """The process that encodes the run's data in the interpreter that launched it; rank 0 starts it."""

    def __init__(self, context: RunContext, layout: Layout) -> None:
        self._context = context
        self._layout = layout
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Start it, on rank 0."""
        if self._context.rank:
            return
        self._context.events.write("progress", phase="loading", step=None, total_steps=None)
        python = os.environ.get(PREPARER, "")
        if not Path(python).is_file():
            raise UserError(
                f"the rows are encoded by the interpreter that launched the run, which is not seen here: {python}",
                hint="mount it: environment.mounts; or let Axolotl encode its data: datasets in the section axolotl",
            )
        # It has Nexa installed; what is on this worker's path is for this worker's Python.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._process = subprocess.Popen(
            [python, "-P", "-m", "nexa_axolotl.prepare", str(self._context.run_dir), str(self._context.attempt)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def finish(self) -> Mapping[str, Any]:
        """Wait until the data is ready; return what was prepared. Raises UserError, DataError or WorkerError."""
        if self._process is not None:
            self._raise_failure(self._process)
            return self._made() or {}
        deadline = None
        while (made := self._made()) is None:
            reason = self._context.stop_requested()
            if reason is not None and deadline is None:
                deadline = time.monotonic() + _SETTLE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                raise WorkerError(f"stopped before the data was ready: {reason}")
            time.sleep(_POLL_SECONDS)
        return made

    def close(self) -> None:
        """End the process where it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def _raise_failure(self, process: subprocess.Popen[str]) -> None:
        output, _ = process.communicate()
        if process.returncode == 0:
            return
        try:
            failure = json.loads(output.strip().splitlines()[-1])
        except (IndexError, ValueError):
            raise WorkerError("the data could not be prepared; the run's log says why") from None
        kind = UserError if process.returncode == UserError.exit_code else WorkerError
        raise kind(failure["message"], hint=failure["hint"])

    def _made(self) -> Mapping[str, Any] | None:
        made = read_json(self._layout.prepared)
        return made if made is not None and made.get("attempt") == self._context.attempt else None


def _import_axolotl() -> Any:
    try:
        from nexa_axolotl import hooks
    except ImportError as error:
        raise UserError(
            f"Axolotl can't be imported in {sys.executable}: {error}",
            hint="see what is missing there: nexa env verify",
        ) from error
    return hooks


def _require_known_keys(context: RunContext) -> None:
    """Compare own keys with Axolotl's schema, where the launching machine could not see it. Raises UserError."""
    own = context.recipe.get(SECTION) or {}
    if not own or not (context.recipe.get("environment") or {}).get("container"):
        return
    from nexa_axolotl.schema import AxolotlSchema, named_plugins
    from nexa_axolotl.schema_dump import describe

    try:
        schema = AxolotlSchema.from_document(describe(named_plugins(own)))
    except (ImportError, AttributeError) as error:
        raise UserError(f"Axolotl can't load a plugin: {error}") from error
    if problems := [str(problem) for problem in schema.problems(own, section=SECTION)]:
        raise UserError("; ".join(problems))


def _resume_folder(context: RunContext, layout: Layout) -> Path | None:
    """A transformers checkpoint folder of the checkpoint to continue from; the same on all ranks."""
    source = context.resume_from
    if source is None:
        return None
    if not state_files.has_state(source):
        raise UserError(
            f"checkpoint {source} holds no trainer state, so the run can't continue from it",
            hint="it was saved with checkpointing.save_optimizer=false; start a new run with it as model.name",
        )
    step = json.loads((source / state_files.FOLDER / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    folder = layout.resume / str(context.attempt) / str(context.rank) / f"checkpoint-{step}"
    shutil.rmtree(folder, ignore_errors=True)
    state_files.restore(source, folder)
    return folder


def _load_configuration(layout: Layout, plugins: Sequence[str], resume: Path | None) -> Any:
    """Axolotl's own reading of the rendered file. Raises UserError with what Axolotl refuses."""
    import yaml
    from axolotl.cli.config import load_cfg
    from axolotl.integrations.base import PluginManager
    from pydantic import ValidationError

    document = yaml.safe_load(layout.config.read_text(encoding="utf-8"))
    more: dict[str, Any] = {"plugins": [*(document.get("plugins") or []), *plugins]}
    if resume is not None:
        more["resume_from_checkpoint"] = str(resume)
    try:
        cfg = load_cfg(str(layout.config), **more)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'it'}: {item['msg']}" for item in error.errors()[:5])
        raise UserError(
            f"Axolotl refuses the configuration {layout.config}: {told}",
            hint=_CHANGE_KEYS,
        ) from error
    except (ValueError, NotImplementedError, Warning) as error:
        # It raises a DeprecationWarning for keys that it took once.
        raise UserError(f"Axolotl refuses the configuration {layout.config}: {error}", hint=_CHANGE_KEYS) from error
    # Axolotl prints what it can't import and goes on without it.
    missing = [name for name in more["plugins"] if name not in PluginManager.get_instance().plugins]
    if missing:
        raise UserError(f"Axolotl could not load the plugin {', '.join(missing)}", hint="the run's log says why")
    return cfg


def _train(cfg: Any) -> None:
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.train import do_train

    do_train(cfg, TrainerCliArgs())


def _leave_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
