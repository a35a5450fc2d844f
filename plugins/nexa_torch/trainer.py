"""`Trainer`: trains a model and data sets that a script brings, as an ordinary run of `TrainingEngine`.

    output = Trainer(model=model, args=args, train_dataset=train, eval_dataset=held_out).train()

It makes the run, wraps the model as a task and the data sets as a data module, and hands them to the engine
in this process. Under torchrun every process does the same script and joins the one run.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from nexa.backend import RunState
from nexa.errors import UserError, WorkerError
from nexa.foreground import agree, begin, begin_again, fit_to_ranks, work
from nexa.plan import Plan, make_plan
from nexa.plugins import get_host
from nexa.recipe.load import resolve_tree
from nexa.recipe.schema import Recipe
from nexa.recipe.views import leaf_values
from nexa.runs.store import RunStore
from nexa.settings import get_settings
from nexa.worker.place import read_plan
from nexa.worker.script import Script
from nexa_torch.callbacks.base import Callback, CallbackContext
from nexa_torch.config import Config
from nexa_torch.data.given import Collate, GivenDataModule, require_dataset
from nexa_torch.distributed.ranks import Ranks
from nexa_torch.engine.evaluation import evaluate
from nexa_torch.engine.precision import Precision
from nexa_torch.options import recipe_from_document
from nexa_torch.rerun import Rerun, ScriptEnded, current_rerun
from nexa_torch.run import run_task
from nexa_torch.tasks.given import GivenModelTask
from nexa_torch.tasks.registry import BACKEND, SCRIPT, load_data_module, load_task
from nexa_torch.training_config import TrainingConfig, load_training_config

if TYPE_CHECKING:
    from nexa.backend import RunResult
    from nexa.worker.context import RunContext
    from nexa.worker.place import LauncherRanks, WorkerPlace
    from nexa_torch.data.module import BaseDataModule
    from nexa_torch.tasks.base import TrainingTask

_BEGUN = count()
_PLACE = ("cluster.", "scheduler")
"""Beginnings of the recipe keys that say where a run trains."""
_INTERRUPTED = b"\nSaving a checkpoint, then ending; Ctrl-C again ends at once.\n"


class TrainOutput(NamedTuple):
    """How training went.

    global_step: optimizer steps done over all attempts. training_loss: mean over these steps. metrics:
    the latest figures ("loss", "eval_loss", …) and "train_runtime", seconds of this call. run_id: for
    `nexa show` and `train(resume_from_checkpoint=…)`. checkpoint: name of the last one, None if none.
    state: "completed", or "stopped" when a stop was asked for.
    """

    global_step: int
    training_loss: float
    metrics: dict[str, float]
    run_id: str
    checkpoint: str | None
    state: str


class Trainer:
    """Trains a model; a thin shell around `TrainingEngine`.

    model: any `nn.Module`, trained in place; a Hugging Face model's own loss is taken. args: a
    TrainingConfig, a Config, a Recipe, or a YAML file of one. train_dataset, eval_dataset: rows
    (input, target), or mappings whose keys the model's `forward` takes. callbacks: see
    `nexa_torch.Callback`. data_collator: from a list of rows to a batch; default: stack, and pad token
    lists. criterion: (output, target) → loss for a model without one; default: mean squared error for
    real targets, cross-entropy for classes. tokenizer: saved with the model.

    Without model and data sets it trains what `args` describes, as `nexa train` does.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingConfig | Config | Recipe | str | Path | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        callbacks: Iterable[Callback] = (),
        *,
        data_collator: Collate | None = None,
        criterion: nn.Module | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Raises UserError where model, data sets and args don't belong together, RecipeError for wrong args."""
        given = (model is not None, train_dataset is not None)
        if any(given) and not all(given):
            missing = "train_dataset" if given[0] else "model"
            raise UserError(
                f"Trainer has no {missing}", hint="give both, or neither to train what args (a recipe) describes"
            )
        if not any(given) and args is None:
            raise UserError("Trainer has nothing to train", hint="give model and train_dataset, or args")
        for name, data in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            if data is not None:
                require_dataset(data, name)
        self.model = model
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.callbacks = list(callbacks)
        self.config = _as_config(args)
        self._collate = data_collator
        self._criterion = criterion
        self._tokenizer = tokenizer
        self._losses = _MeanLoss()

    def train(self, resume_from_checkpoint: bool | str | None = None) -> TrainOutput:
        """Train to the end in this process and return how it went.

        resume_from_checkpoint: True continues the newest run of this name, a run's id that one, exactly
        where its newest checkpoint stands. Ctrl-C saves a checkpoint and returns. In a script that `nexa resume`
        has started again the first call continues the run. Raises RecipeError for settings that can't be had
        here, WorkerError when training fails, and what the model itself raises.
        """
        rerun = current_rerun()
        if rerun is not None and rerun.result is None:
            return self._go_on(rerun)
        if rerun is not None and rerun.result is not None and rerun.result.state is RunState.STOPPED:
            raise ScriptEnded(0)
        backend = get_host().create("backend", BACKEND)
        ranks = backend.launcher_ranks(os.environ)
        place = agree(backend, ranks, lambda: self._begin(ranks, resume_from_checkpoint))
        if place is None:
            raise WorkerError("rank 0 could not begin the run; its own message says why")
        self._losses = _MeanLoss()
        started = time.perf_counter()
        result = work(place, train=self._run, on_interrupt=_on_interrupt if place.world_size == 1 else None)
        return self._output(result, place.run_dir.name, started)

    def evaluate(self, eval_dataset: Any = None) -> dict[str, float]:
        """Loss on held-out rows, on this process alone: "eval_loss" and what the task adds to it.

        eval_dataset: default the trainer's own. Raises UserError without one.
        """
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if self.model is None or data is None:
            raise UserError("there is nothing to evaluate", hint="give Trainer a model and an eval_dataset")
        require_dataset(data, "eval_dataset")
        recipe = self._recipe(None)
        module = GivenDataModule(recipe, data, data, collate=self._collate)
        task = GivenModelTask(recipe, module, model=self.model, criterion=self._criterion)
        device = next(self.model.parameters()).device
        held_out = module.val_dataloader(0, 1)
        assert held_out is not None
        return evaluate(
            task,
            self.model,
            task.build_criterion(),
            held_out[0],
            Ranks(rank=0, world_size=1, device=device),
            autocast=Precision(recipe.training.precision, device).autocast,
            stop_requested=lambda: False,
        )

    def plan(self) -> Plan:
        """What `train` will do, settings report included; touches nothing. Raises RecipeError."""
        backend = get_host().create("backend", BACKEND)
        return self._plan(backend.launcher_ranks(os.environ))

    def _go_on(self, rerun: Rerun) -> TrainOutput:
        """Continue the run that this script was started again for, in the worker's place."""
        context = rerun.context
        begun = read_plan(context.run_dir, 0)["recipe"]
        _require_same_recipe(context.run_id, begun, self._recipe(None), placed=False)
        self._losses = _MeanLoss()
        started = time.perf_counter()
        rerun.result = self._run(context)
        return self._output(rerun.result, context.run_id, started)

    def _output(self, result: RunResult, run_id: str, started: float) -> TrainOutput:
        figures = {name: value for name, value in result.metrics.items() if value is not None}
        return TrainOutput(
            global_step=result.step,
            training_loss=self._losses.mean,
            metrics={**figures, "train_runtime": time.perf_counter() - started},
            run_id=run_id,
            checkpoint=result.checkpoint,
            state=str(result.state),
        )

    def _begin(self, ranks: LauncherRanks | None, resume: bool | str | None) -> WorkerPlace:
        """Make the run, or the next attempt of the one to continue, on rank 0."""
        plan = self._plan(ranks)
        if not resume:
            return begin(plan, ranks, script=None if self.model is None else _script())
        run = RunStore(plan.runs_dir).open(plan.run_name if resume is True else resume)
        _require_same_recipe(run.run_id, run.plan["recipe"], plan.recipe)
        return begin_again(run, ranks)

    def _plan(self, ranks: LauncherRanks | None) -> Plan:
        tree = fit_to_ranks(self._complete(ranks).tree, ranks)
        plan = make_plan(resolve_tree(tree), host=get_host(), settings=get_settings(), placed=ranks is not None)
        plan.require_startable()
        return plan

    def _recipe(self, ranks: LauncherRanks | None) -> Recipe:
        return self._complete(ranks).recipe

    def _complete(self, ranks: LauncherRanks | None) -> Config:
        """The config with what stands for the given model and data, and a GPU for each process where there are."""
        config = self.config.copy()
        if self.model is None:
            return config
        config.set_key("method", SCRIPT)
        config.set_key("model.name", f"python:{_name_of(self.model)}")
        config.set_key("data.remote_uri", f"python:{_name_of(self.train_dataset)}")
        if config.get("run.name") is None:
            config.set_key("run.name", re.sub(r"[^A-Za-z0-9._-]", "-", type(self.model).__name__)[:40] or "model")
        if not config.is_set("cluster.gpus_per_node") and torch.cuda.is_available():
            config.set_key("cluster.gpus_per_node", ranks.local_world_size if ranks else 1)
        return config

    def _run(self, context: RunContext) -> RunResult:
        """One rank's training, in the worker's place."""
        recipe = recipe_from_document(dict(context.recipe))
        task, module = self._task(recipe)
        return run_task(context, recipe, task, module, [*self.callbacks, self._losses])

    def _task(self, recipe: Recipe) -> tuple[TrainingTask, BaseDataModule]:
        if self.model is None:
            module = load_data_module(recipe)
            return load_task(recipe, module), module
        module = GivenDataModule(recipe, self.train_dataset, self.eval_dataset, collate=self._collate)
        return (
            GivenModelTask(recipe, module, model=self.model, criterion=self._criterion, tokenizer=self._tokenizer),
            module,
        )


class _MeanLoss(Callback):
    """The mean of the losses of all steps, over all attempts; adds them up where the model is."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._steps = 0

    @property
    def mean(self) -> float:
        """NaN before the first step."""
        return float(self._sum) / self._steps if self._steps else float("nan")

    def on_step_end(self, ctx: CallbackContext) -> None:
        """Add the step's loss."""
        assert ctx.last_loss is not None
        self._sum = self._sum + ctx.last_loss.double()
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Sum and count."""
        return {"sum": float(self._sum), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a sum."""
        self._sum, self._steps = float(state["sum"]), int(state["steps"])


def _as_config(args: TrainingConfig | Config | Recipe | str | Path | None) -> Config:
    if isinstance(args, TrainingConfig):
        return args.to_config()
    if isinstance(args, Config):
        return args.copy()
    if isinstance(args, Recipe):
        return Config.from_recipe(args)
    if args is None:
        return Config()
    if isinstance(args, str | Path):
        return load_training_config(args).to_config()
    raise UserError(f"args is a {type(args).__name__}", hint="give a TrainingConfig, a Config, a Recipe or a YAML file")


def _name_of(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _script() -> Script:
    """This process's script; only the first run that it begins can be continued by starting it again."""
    script = Script.of_this_process()
    if next(_BEGUN) and not script.obstacle:
        return replace(script, obstacle="it is not the first run of its script, which would train the others anew")
    return script


def _require_same_recipe(run_id: str, begun: Mapping[str, Any], recipe: Recipe, *, placed: bool = True) -> None:
    """Refuse to continue a run with other settings than it was begun with. Raises UserError.

    placed: whether `recipe` says in how many processes it trains here, and where.
    """
    before, now = leaf_values(begun), leaf_values(recipe.document())
    keys = sorted(key for key in {*before, *now} if placed or not key.startswith(_PLACE))
    changed = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"run {run_id} can't continue exactly with other settings: {'; '.join(changed)}",
            hint="use its settings, or begin a new run: train()",
        )


def _on_interrupt() -> None:
    os.write(sys.stderr.fileno(), _INTERRUPTED)
