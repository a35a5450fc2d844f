"""Callbacks: their order, what they are told, and what each of the shipped ones does."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import regression_document, regression_engine
from running import Run

from nexa.backend import RunState
from nexa.errors import PluginError
from nexa_torch import (
    Callback,
    CallbackContext,
    CheckpointCallback,
    EarlyStopping,
    EarlyStoppingCallback,
    LoggingCallback,
    LRSchedulerCallback,
    MetricsLogger,
    ProfilerCallback,
    ProgressCallback,
    RegressionTask,
    TensorBoardLogger,
    ThroughputCallback,
)
from nexa_torch.callbacks.base import HOOKS

ROOT = Path(__file__).parents[3]


class Recorder(Callback):
    """Notes every call with the step and the epoch."""

    def __init__(self, notes: list[tuple[str, int, int]]) -> None:
        self.notes = notes


def _note(hook: str) -> Callable[[Recorder, CallbackContext], None]:
    return lambda self, ctx: self.notes.append((hook, ctx.step, ctx.epoch))


for _hook in HOOKS:
    setattr(Recorder, _hook, _note(_hook))


class At(Callback):
    """Does something at the end of a step."""

    def __init__(self, step: int, action: Callable[[CallbackContext], None]) -> None:
        self._step, self._action = step, action

    def on_step_end(self, ctx: CallbackContext) -> None:
        if ctx.step == self._step:
            self._action(ctx)


class Scripted(RegressionTask):
    """Evaluations follow a script: the figures of evaluation 0, 1, 2 and so on."""

    script: tuple[float, ...] = ()

    def summarize(self, values: dict[str, float]) -> dict[str, float]:
        asked = getattr(self, "asked", 0)
        self.asked = asked + 1
        return {**values, "eval_loss": self.script[asked], "eval_accuracy": self.script[asked]}


def scripted(*values: float) -> type[Scripted]:
    return type("ScriptedTask", (Scripted,), {"script": values})


def fail(ctx: CallbackContext) -> None:
    raise RuntimeError("on purpose")


def test_hooks_are_called_in_the_documented_order() -> None:
    notes: list[tuple[str, int, int]] = []
    every_two = {"max_steps": None, "epochs": 2, "microbatch_size_per_gpu": 10, "log_every_steps": 2}
    regression_engine([Recorder(notes)], training={**every_two, "eval_every_epochs": 1}).run()
    step = ["on_step_begin", "on_step_end"]
    validation = ["on_validation_begin", "on_validation_end"]
    epoch_one = ["on_epoch_begin", *step, *step, "on_log", *step, *validation, "on_epoch_end"]
    epoch_two = ["on_epoch_begin", *step, "on_log", *step, *step, "on_log", *validation, "on_epoch_end"]
    expected = ["on_train_begin", *validation, *epoch_one, *epoch_two, "on_train_end"]
    assert [note[0] for note in notes] == expected
    assert notes[-1] == ("on_train_end", 6, 2)
    assert [note[1:] for note in notes if note[0] == "on_epoch_end"] == [(3, 1), (6, 2)]


def test_the_page_lists_the_hooks_in_their_order() -> None:
    page = (ROOT / "docs" / "reference" / "callbacks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(on_\w+)` \|", page, flags=re.MULTILINE)
    assert tuple(rows) == HOOKS


def test_lower_priority_is_called_earlier_and_equal_ones_in_order() -> None:
    called: list[str] = []

    def make(name: str, rank: int) -> Callback:
        hook = {"on_train_begin": lambda self, ctx: called.append(name), "priority": rank}
        return type(name, (Callback,), hook)()

    regression_engine([make("late", 9), make("first", 1), make("second", 1), make("early", -5)]).run()
    assert called == ["early", "first", "second", "late"]


def test_on_train_end_is_called_after_an_exception_in_every_callback() -> None:
    notes: list[tuple[str, int, int]] = []

    class Broken(Callback):
        priority = -1

        def on_train_end(self, ctx: CallbackContext) -> None:
            raise ValueError("while closing")

    with pytest.raises(RuntimeError, match="on purpose") as caught:
        regression_engine([At(3, fail), Broken(), Recorder(notes)]).run()
    assert [note[0] for note in notes][-2:] == ["on_exception", "on_train_end"]
    assert any("while closing" in note for note in caught.value.__notes__)
    with pytest.raises(ValueError, match="while closing"):
        regression_engine([Broken()]).run()


def test_a_stopped_run_ends_its_callbacks_too(tmp_path: Path) -> None:
    notes: list[tuple[str, int, int]] = []
    result = regression_engine([At(2, lambda ctx: ctx.stop("enough")), Recorder(notes)]).run()
    assert (result.state, result.step) == (RunState.COMPLETED, 2)
    assert notes[-1][0] == "on_train_end"


def test_the_loss_in_the_context_is_the_log_record_s(tmp_path: Path) -> None:
    seen: dict[int, float] = {}

    class Watch(Callback):
        def on_step_end(self, ctx: CallbackContext) -> None:
            seen[ctx.step] = ctx.loss

    logger = MetricsLogger(io.StringIO())
    regression_engine([Watch(), logger]).run()
    assert logger.history[-1]["loss"] == seen[6]
    assert seen[6] < seen[1]


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_early_stopping_stops_at_exactly_the_patience(patience: int) -> None:
    """Evaluation 2 is the best; the run evaluates every step."""
    stopping = EarlyStopping(monitor="val_loss", patience=patience)
    task = scripted(9.0, 3.0, 1.0, 1.5, 1.2, 1.1, 1.3, 0.1)
    result = regression_engine([stopping], task=task, training={"eval_every_steps": 1}).run()
    assert (result.state, result.step) == (RunState.COMPLETED, 2 + patience)
    assert (stopping.best, stopping.best_step) == (1.0, 2)


@pytest.mark.parametrize(
    ("options", "values", "stop"),
    [
        ({"min_delta": 0.5}, (9, 3.0, 2.9, 2.8, 2.4, 2.3, 2.2), 3),
        ({"mode": "max"}, (0, 1.0, 2.0, 3.0, 2.0, 1.0, 0.0), 5),
        ({"monitor": "val_accuracy"}, (0, 1.0, 2.0, 1.9, 1.8, 0.0, 0.0), 4),
        ({"monitor": "eval_loss"}, (9, math.nan, math.nan, 1.0, 1.0, 1.0, 1.0), 2),
        ({"monitor": "eval_loss"}, (0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0), 6),
    ],
    ids=["min_delta", "max", "auto-is-max-for-accuracy", "nan-is-no-improvement", "improving-to-the-end"],
)
def test_early_stopping_options(options: dict[str, Any], values: tuple[float, ...], stop: int) -> None:
    callbacks = [EarlyStopping(patience=2, **options)]
    engine = regression_engine(callbacks, task=scripted(*values), training={"eval_every_steps": 1})
    assert engine.run().step == stop


def test_early_stopping_restores_the_best_weights() -> None:
    snapshots: dict[int, torch.Tensor] = {}

    class Keep(Callback):
        def on_step_end(self, ctx: CallbackContext) -> None:
            snapshots[ctx.step] = next(ctx.model.parameters()).detach().clone()

    stopping = EarlyStopping(patience=2, restore_best=True)
    engine = regression_engine(
        [stopping, Keep()], task=scripted(9, 3.0, 1.0, 2.0, 2.0, 0.0), training={"eval_every_steps": 1}
    )
    result = engine.run()
    assert result.step == 4
    assert result.metrics["eval_loss"] == 1.0
    weights = next(engine.model.parameters())
    assert torch.equal(weights, snapshots[2])
    assert not torch.equal(weights, snapshots[4])


def test_early_stopping_continues_to_count_after_a_resume(tmp_path: Path) -> None:
    """The cut run stops at the same step, with the same weights, as the whole one."""
    document = regression_document(
        training={
            "max_steps": 40,
            "eval_every_steps": 1,
            "early_stopping": {"patience": 3, "min_delta": 0.05, "restore_best": True},
        },
        optimizer={"lr": 0.03},
    )
    whole = Run(tmp_path / "whole", document).attempt()
    assert whole.result.state is RunState.COMPLETED
    assert 6 < whole.result.step < 40
    cut = Run(tmp_path / "cut", document)
    asked = iter(range(1000))
    first = cut.attempt(stop=lambda: "test" if next(asked) > 12 else None)
    assert first.result.state is RunState.STOPPED
    assert 0 < first.result.step < whole.result.step
    second = cut.attempt()
    assert (second.result.step, second.result.metrics) == (whole.result.step, whole.result.metrics)
    assert second.checkpoint is not None
    assert whole.checkpoint is not None
    files = [folder / "model.safetensors" for folder in (second.checkpoint, whole.checkpoint)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("options", [{"patience": 0}, {"mode": "best"}, {"min_delta": -1.0}])
def test_early_stopping_refuses_what_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        EarlyStopping(**options)


def test_early_stopping_has_both_names() -> None:
    assert EarlyStoppingCallback is EarlyStopping


def test_checkpoints_keep_the_newest_and_the_best(tmp_path: Path) -> None:
    task = scripted(9, 5.0, 1.0, 4.0, 3.0, 2.0, 6.0)
    saving = CheckpointCallback(every_steps=1, keep_last=2, monitor="val_loss", folder=tmp_path / "store")
    result = regression_engine([saving], task=task, training={"eval_every_steps": 1}).run()
    kept = sorted(path.name for path in (tmp_path / "store" / "checkpoints" / "run").iterdir())
    assert kept == ["step-00000002", "step-00000005", "step-00000006"]
    assert result.checkpoint == "checkpoints/run/step-00000006"
    manifest = json.loads((tmp_path / "store" / "checkpoints" / "run" / kept[0] / "manifest.json").read_text())
    assert manifest["metrics"]["eval_loss"] == 1.0


def test_a_checkpoint_continues_an_engine_that_is_no_part_of_a_run(tmp_path: Path) -> None:
    whole = regression_engine()
    whole.run()
    saving = CheckpointCallback(every_steps=3, folder=tmp_path)
    regression_engine([saving, At(4, fail)][:1]).run()
    assert saving.saved[0].endswith("step-00000003")
    again = regression_engine()
    again.resume_from = tmp_path / saving.saved[0]
    assert again.run().step == 6
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_metrics_logger_prints_each_epoch() -> None:
    out = io.StringIO()
    training = {"max_steps": None, "epochs": 2, "microbatch_size_per_gpu": 10, "eval_every_epochs": 1}
    logger = MetricsLogger(out)
    regression_engine([logger], training=training).run()
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1", "epoch 2"]
    assert all("loss " in line and "eval_loss " in line and "eval_mae " in line for line in lines)
    assert [entry["step"] for entry in logger.history] == [3, 6]


def test_progress_bar_reaches_the_end() -> None:
    out = io.StringIO()
    regression_engine([ProgressCallback(out, force=True)]).run()
    assert "6/6" in out.getvalue()
    assert "loss=" in out.getvalue()


def test_learning_rate_of_every_step_is_logged(tmp_path: Path) -> None:
    rates = LRSchedulerCallback()
    schedule = {"name": "linear", "warmup_steps": 2}
    regression_engine([rates], optimizer={"lr": 1.0, "scheduler": schedule}, training={"log_every_steps": 4}).run()
    assert [step for step, _ in rates.history] == [1, 2, 3, 4, 5, 6]
    assert [rate for _, rate in rates.history] == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_tensorboard_logger_writes_scalars(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    regression_engine([TensorBoardLogger(log_dir=tmp_path / "tb")], training={"eval_every_steps": 2}).run()
    events = reading.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [point.step for point in events.Scalars("eval/loss")] == [0, 2, 4, 6]


def test_wandb_works_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    options = {"wandb": {"mode": "offline", "project": "nexa-test"}}
    regression_engine([LoggingCallback(["wandb"], options=options, log_dir=tmp_path)]).run()
    (file,) = tmp_path.rglob("*.wandb")
    assert file.stat().st_size > 0


def test_an_unknown_tracker_is_named() -> None:
    with pytest.raises(PluginError, match="tensorbord"):
        LoggingCallback(["tensorbord"])


def test_throughput_adds_utilisation() -> None:
    shares: list[float] = []

    class Watch(Callback):
        priority = 6

        def on_log(self, ctx: CallbackContext) -> None:
            rate = ctx.log["samples_per_second"]
            parameters = sum(parameter.numel() for parameter in ctx.model.parameters())
            shares.append(ctx.log["mfu"] / (6.0 * parameters * rate / 1e9))

    regression_engine([ThroughputCallback(peak=1e9), Watch()]).run()
    assert shares == pytest.approx([1.0] * 6)


def test_a_recipe_asks_for_profile_and_utilisation(tmp_path: Path) -> None:
    document = regression_document(training={"profile_steps": 2, "measure_mfu": True})
    done = Run(tmp_path / "run", document).attempt()
    trace = json.loads((tmp_path / "run" / "profile" / "trace-rank0.json").read_text())
    assert any("addmm" in event.get("name", "") for event in trace["traceEvents"])
    assert "addmm" in (tmp_path / "run" / "profile" / "operators-rank0.txt").read_text()
    assert all(value > 0 for value in done.series("mfu").values())
    assert any("mfu is a share of" in event["text"] for event in done.of("message"))


def test_the_profiler_writes_what_it_has_when_training_ends_early(tmp_path: Path) -> None:
    regression_engine([ProfilerCallback(50, folder=tmp_path)]).run()
    assert (tmp_path / "trace-rank0.json").is_file()


def test_state_of_two_callbacks_of_one_class_is_kept_apart(tmp_path: Path) -> None:
    from nexa_torch.callbacks.base import CallbackList

    first, second = EarlyStopping(), EarlyStopping(monitor="eval_mae")
    first.best, second.best = 1.0, 2.0
    states = json.loads(json.dumps(CallbackList([first, second]).state_dicts()))
    fresh = [EarlyStopping(), EarlyStopping(monitor="eval_mae")]
    CallbackList(fresh).load_state_dicts(states)
    assert [callback.best for callback in fresh] == [1.0, 2.0]
