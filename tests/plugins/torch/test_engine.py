"""The engine with generic tasks: arithmetic of accumulation, order of batches, resume, failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import SAMPLES, regression_document, regression_engine
from running import Run, chat_rows, tiny_recipe
from safetensors import safe_open
from safetensors.torch import load_file
from test_ranks import _two_ranks
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from nexa.backend import RunResult, RunState
from nexa.batch import resolve_batch
from nexa.errors import UserError, WorkerError
from nexa.recipe.schema import Recipe
from nexa.worker.context import RunContext
from nexa_torch import BaseDataModule, CheckpointCallback, GlobalSampler, RegressionTask, TrainingEngine, make_loader
from nexa_torch.engine.windows import loaded_ahead, make_source
from nexa_torch.run import run_task
from nexa_torch.tasks.registry import load_data_module

TRAINED = SAMPLES - SAMPLES // 4
ONE_STEP = {"max_steps": None, "epochs": 1, "max_grad_norm": None, "log_every_steps": 1}


class Gradients(RegressionTask):
    """Keeps the gradients that the optimizer's first step sees."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        self.seen: list[torch.Tensor] = []

        def keep(*_: Any) -> None:
            self.seen = self.seen or [parameter.grad.clone() for parameter in model.parameters()]

        optimizer.register_step_pre_hook(keep)
        return optimizer


@pytest.mark.parametrize(("micro", "accumulation"), [(30, 1), (10, 3), (4, 8), (7, 5), (1, 30)])
def test_accumulated_gradient_is_the_large_batch_s(micro: int, accumulation: int) -> None:
    """One step over all 30 rows, also where the last microbatch is short, against autograd over all of them."""
    training = {**ONE_STEP, "microbatch_size_per_gpu": micro, "grad_accumulation_steps": accumulation}
    engine = regression_engine(task=Gradients, training=training)
    assert engine.run().step == 1
    rows = engine.data_module._train.tensors
    model = engine.task.build_model()
    nn.functional.mse_loss(model(rows[0]), rows[1]).backward()
    assert isinstance(engine.task, Gradients)
    for seen, parameter in zip(engine.task.seen, model.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(seen, parameter.grad, rtol=1e-5, atol=1e-7)


def test_two_ranks_train_what_one_does(tmp_path: Path) -> None:
    """With a last step that is smaller, and held-out rows of which one rank gets none in the last round."""
    document = regression_document(
        training={"max_steps": None, "epochs": 1.3, "global_batch_size": 8, "microbatch_size_per_gpu": 2},
    )
    one = Run(tmp_path / "one", document).attempt()
    document["cluster"]["processes_per_node"] = 2
    events = _two_ranks(document, tmp_path / "two")
    values = {event["step"]: event["values"] for event in events if event["type"] == "metrics"}
    for key in ("loss", "grad_norm", "samples"):
        expected = list(one.series(key).values())
        assert [values[step][key] for step in values] == pytest.approx(expected, rel=1e-5)
    evaluations = [event["values"] for event in events if event["type"] == "eval"]
    assert evaluations == [pytest.approx(event["values"], rel=1e-5) for event in one.of("eval")]


def test_loader_workers_change_nothing(tmp_path: Path) -> None:
    rows = chat_rows(tmp_path)
    options = {"training": {"max_steps": 3, "grad_accumulation_steps": 2}, "cluster": {"threads_per_process": 1}}
    alone, loaded = (
        Run(tmp_path / str(workers), tiny_recipe(rows, **options, data={"loader_workers": workers})).attempt()
        for workers in (0, 2)
    )
    assert alone.series("loss") == loaded.series("loss")
    assert alone.checkpoint is not None
    assert loaded.checkpoint is not None
    weights = [(folder / "model.safetensors").read_bytes() for folder in (alone.checkpoint, loaded.checkpoint)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_sampler_gives_each_row_once_an_epoch_from_any_place(world_size: int) -> None:
    samplers = [GlobalSampler(11, batch_size=2, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    for sampler in samplers:
        sampler.select(total_rows=33)
    batches = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(part) for part in batches]
    order = [row for micro in range(20) for part in batches if micro < len(part) for row in part[micro]]
    alone = GlobalSampler(11, batch_size=1, seed=3)
    alone.select(total_rows=33)
    assert order == [row for batch in alone for row in batch]
    assert all(sorted(order[start : start + 11]) == list(range(11)) for start in (0, 11, 22))
    samplers[0].select(start=2, total_rows=33)
    assert list(samplers[0]) == batches[0][2:]


class ForeignData(BaseDataModule):
    """An ordinary DataLoader with torch's own sampler."""

    def prepare_data(self) -> None:
        """Nothing."""

    def setup(self, stage: str | None = None) -> None:
        """Fixed rows."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(30, 3, generator=generator)
        self.rows = TensorDataset(inputs, inputs.sum(1, keepdim=True))

    def train_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[Any], Any]:
        """Batches of 4, the last of an epoch of 2."""
        sampler = DistributedSampler(self.rows, num_replicas=world_size, rank=rank, seed=1)
        return DataLoader(self.rows, batch_size=4, sampler=sampler), sampler


def foreign_engine(callbacks: tuple[CheckpointCallback, ...] = (), **training: Any) -> TrainingEngine:
    document = regression_document(training={"max_steps": None, "epochs": 3, "grad_accumulation_steps": 3, **training})
    recipe = Recipe.from_document(document)
    module = ForeignData(recipe)
    return TrainingEngine(recipe, RegressionTask(recipe, module), 0, 1, data_module=module, callbacks=callbacks)


def test_any_loader_and_sampler_will_do_and_resume_exactly(tmp_path: Path) -> None:
    """8 microbatches an epoch are 3 steps; the run is continued in the middle of the second epoch."""
    whole = foreign_engine()
    assert whole.run().step == 9
    saving = CheckpointCallback(every_steps=5, folder=tmp_path)
    foreign_engine((saving,)).run()
    resumed = foreign_engine()
    resumed.resume_from = tmp_path / saving.saved[0]
    assert resumed.run().step == 9
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


class Endless(IterableDataset[Any]):
    """Rows without an end."""

    def __iter__(self) -> Any:
        while True:
            yield torch.rand(3), torch.rand(1)


def test_data_without_a_length_needs_max_steps() -> None:
    class EndlessData(ForeignData):
        def train_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[Any], Any]:
            return DataLoader(Endless(), batch_size=4), None

    recipe = Recipe.from_document(regression_document(training={"max_steps": 2}))
    assert TrainingEngine(recipe, RegressionTask(recipe, EndlessData(recipe))).run().step == 2
    recipe = Recipe.from_document(regression_document(training={"max_steps": None, "epochs": 1}))
    with pytest.raises(UserError, match="no length") as caught:
        TrainingEngine(recipe, RegressionTask(recipe, EndlessData(recipe))).run()
    assert "training.max_steps" in str(caught.value.hint)


def test_random_augmentation_is_repeated_after_a_resume(tmp_path: Path) -> None:
    """A data set that draws from torch's generator gives the same rows again."""

    class Noisy(ForeignData):
        def train_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[Any], Any]:
            sampler = GlobalSampler(30, batch_size=4, seed=1, rank=rank, world_size=world_size)

            def noisy(rows: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
                inputs, targets = torch.utils.data.default_collate(rows)
                return inputs + torch.randn_like(inputs), targets

            return make_loader(self.rows, sampler, collate=noisy), sampler

    def engine(*callbacks: CheckpointCallback) -> TrainingEngine:
        recipe = Recipe.from_document(regression_document())
        return TrainingEngine(recipe, RegressionTask(recipe, Noisy(recipe)), callbacks=callbacks)

    whole, saving, resumed = engine(), CheckpointCallback(every_steps=4, folder=tmp_path), engine()
    whole.run()
    engine(saving).run()
    resumed.resume_from = tmp_path / saving.saved[0]
    resumed.run()
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_error_while_loading_ahead_reaches_the_loop() -> None:
    class Torn(ForeignData):
        prefetch = True

        def train_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[Any], Any]:
            def torn(rows: list[Any]) -> Any:
                raise UserError("row 7 is damaged")

            sampler = GlobalSampler(30, batch_size=4)
            return make_loader(self.rows, sampler, collate=torn), sampler

    recipe = Recipe.from_document(regression_document())
    with pytest.raises(UserError, match="row 7 is damaged"):
        TrainingEngine(recipe, RegressionTask(recipe, Torn(recipe))).run()


def test_loading_ahead_ends_with_the_loop() -> None:
    import threading

    engine = regression_engine()
    engine.data_module.setup()
    loader, sampler = engine.data_module.train_dataloader(0, 1)
    training = engine.recipe.training
    source = make_source(loader, sampler, engine.task, resolve_batch(training, 1), training)
    with loaded_ahead(source.windows(0, seeded=False), threaded=True) as windows:
        first = next(windows)
    assert first.rows == source.window(0).rows
    assert not [thread for thread in threading.enumerate() if thread.name == "load-batches"]


def test_batches_of_another_size_than_the_recipe_s_are_refused() -> None:
    class Wrong(ForeignData):
        def train_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[Any], Any]:
            sampler = GlobalSampler(30, batch_size=3)
            return make_loader(self.rows, sampler), sampler

    recipe = Recipe.from_document(regression_document())
    with pytest.raises(UserError, match=r"hold 3 rows and training\.microbatch_size_per_gpu is 4"):
        TrainingEngine(recipe, RegressionTask(recipe, Wrong(recipe))).run()


def test_the_batch_of_a_loss_that_is_no_number_is_kept(tmp_path: Path) -> None:
    document = regression_document(optimizer={"lr": 1e30}, training={"max_grad_norm": None, "log_every_steps": 4})
    with pytest.raises(WorkerError, match=r"loss of step \d is (nan|inf)") as caught:
        Run(tmp_path / "run", document).attempt()
    (file,) = (tmp_path / "run").glob("failed-batch-*-rank0.safetensors")
    assert str(file) in str(caught.value.hint)
    with safe_open(file, "pt") as saved:
        rows = json.loads(saved.metadata()["rows"])
        assert (len(rows), saved.get_tensor("0/0").shape) == (4, (4, 3))


class Greedy(RegressionTask):
    """Asks for more memory than there is."""

    def train_step(self, batch: Any, model: nn.Module, criterion: nn.Module) -> Any:
        torch.empty(1 << 60, dtype=torch.uint8)


def test_a_batch_that_does_not_fit_says_what_to_type(tmp_path: Path) -> None:
    def train(context: RunContext) -> RunResult:
        recipe = Recipe.from_document(dict(context.recipe))
        module = load_data_module(recipe)
        return run_task(context, recipe, Greedy(recipe, module), module)

    with pytest.raises(
        WorkerError, match="microbatch of 4 rows does not fit into the memory of cpu in step 1"
    ) as caught:
        Run(tmp_path / "run", regression_document(), train=train).attempt()
    assert "nexa resume run training.microbatch_size_per_gpu=2" in str(caught.value.hint)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    small = Run(tmp_path / "run", regression_document(training={"max_steps": 2}))
    small.attempt()
    wider = regression_document(training={"max_steps": 4}, regression={"hidden_sizes": [9]})
    small.recipe = Recipe.from_document(wider)
    with pytest.raises(UserError, match="belongs to another model"):
        small.attempt()


def test_the_checkpoint_of_a_task_says_what_it_is(tmp_path: Path) -> None:
    done = Run(tmp_path / "run", regression_document()).attempt()
    assert done.checkpoint is not None
    assert set(load_file(done.checkpoint / "model.safetensors")) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    document = json.loads((done.checkpoint / "task.json").read_text())
    assert document["task"] == "regression"
    assert document["options"]["hidden_sizes"] == [8]


def test_a_cut_regression_run_ends_like_the_whole_one(tmp_path: Path) -> None:
    document = regression_document(regression={"dropout": 0.3}, training={"max_steps": 10, "save_every_steps": 4})
    whole = Run(tmp_path / "whole", document).attempt()
    cut = Run(tmp_path / "cut", document)
    asked = iter(range(100))
    assert cut.attempt(stop=lambda: "test" if next(asked) > 9 else None).result.state is RunState.STOPPED
    second = cut.attempt()
    assert second.result.metrics == whole.result.metrics
    assert second.checkpoint is not None
    assert whole.checkpoint is not None
    assert (second.checkpoint / "model.safetensors").read_bytes() == (
        whole.checkpoint / "model.safetensors"
    ).read_bytes()


def test_loss_falls_to_the_noise() -> None:
    """The best possible loss is the variance of the noise, 0.01."""
    training = {"max_steps": 150, "microbatch_size_per_gpu": 32}
    engine = regression_engine(regression={"n_samples": 1024, "hidden_sizes": []}, training=training)
    assert engine.run().metrics["eval_loss"] == pytest.approx(0.01, rel=0.5)


def test_names_are_public_and_import_nothing_heavy() -> None:
    import subprocess
    import sys

    program = "import sys, nexa_torch; print(nexa_torch.__all__ != [], 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True", "False"]
    import nexa_torch

    assert all(getattr(nexa_torch, name) is not None for name in nexa_torch.__all__)
