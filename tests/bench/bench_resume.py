"""Saving and resuming against transformers' Trainer: how long training stands still, and how fast it finds its place.

Targets: a background save holds training up for ≤0.1x the time of the Trainer's save; a resumed run reaches its
place in the data in ≤0.05x the time of `accelerate.skip_first_batches`. Both save the same model with the same
optimizer state to the same disk.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tests.bench._measure import Timing, report
from torch import nn
from torch.utils.data import Dataset

from nexa.backend import RunState
from nexa.events.writer import EventWriter
from nexa.recipe.schema import Recipe
from nexa.worker.checkpoints import StoreCommitter
from nexa.worker.context import RunContext
from nexa_file.store import FileStore
from nexa_torch.callbacks.base import Callback, CallbackContext
from nexa_torch.data.module import BaseDataModule, GlobalSampler, make_loader
from nexa_torch.engine.engine import TrainingEngine
from nexa_torch.engine.saving import Saver
from nexa_torch.tasks.base import TrainingTask

WIDTH, BATCH = 256, 4
ROWS_A_STEP = 512


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Rows of numbers that cost little to make."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The row of an index."""
        return {"x": torch.full((WIDTH,), float(index % 7))}


class Model(nn.Module):
    """Square layers, as many as give the wanted number of parameters."""

    def __init__(self, millions: float) -> None:
        super().__init__()
        layers = max(1, round(millions * 1e6 / (1024 * 1024)))
        self.inner = nn.Sequential(nn.Linear(WIDTH, 1024), *(nn.Linear(1024, 1024) for _ in range(layers)))

    def forward(self, x: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
        """The mean square of the output, as the loss."""
        return {"loss": self.inner(x).square().mean()}


class Squares(TrainingTask):
    """Trains `Model`."""

    def __init__(self, recipe: Recipe, module: BaseDataModule, millions: float) -> None:
        super().__init__(recipe, module)
        self._millions = millions

    def build_model(self) -> nn.Module:
        return Model(self._millions)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-4)

    def build_scheduler(self, optimizer: torch.optim.Optimizer) -> None:
        return None

    def build_criterion(self) -> nn.Module:
        return nn.Identity()

    def train_step(self, batch: Any, model: nn.Module, criterion: nn.Module) -> tuple[torch.Tensor, dict[str, Any]]:
        return model(**batch)["loss"], {}

    validation_step = train_step


class Data(BaseDataModule):
    """Gives `Rows`."""

    def __init__(self, recipe: Recipe, count: int) -> None:
        super().__init__(recipe)
        self._rows = Rows(count)

    def prepare_data(self) -> None:
        """Nothing to prepare."""

    def setup(self, stage: str | None = None) -> None:
        """Nothing to load."""

    def train_dataloader(self, rank: int, world_size: int) -> Any:
        sampler = GlobalSampler(len(self._rows), batch_size=BATCH, seed=1, rank=rank, world_size=world_size)
        return make_loader(self._rows, sampler), sampler


class Saves(Callback):
    """Behind the last step, saves it again and again, a step of training beside each save.

    stall: how long training stands still, in `save` and before the update. alone, beside: forward and backward pass
    without and with a save beside it, which takes a core and memory traffic. whole: until the commit is done.
    """

    def __init__(self, rounds: int, store: Path) -> None:
        self.alone: list[float] = []
        self.beside: list[float] = []
        self.stall: list[float] = []
        self.whole: list[float] = []
        self._rounds, self._store = rounds, store

    def on_train_end(self, ctx: CallbackContext) -> None:
        """Save `rounds` times, once before to take the memory."""
        assert ctx.engine.checkpoints is not None
        saver = Saver(ctx.engine, ctx.engine.checkpoints, in_background=True)
        rows = {"x": torch.ones(ROWS_A_STEP, WIDTH)}
        for turn in range(-1, self._rounds):
            shutil.rmtree(self._store, ignore_errors=True)
            started = time.perf_counter()
            _gradients(ctx.model, rows)
            alone = time.perf_counter() - started
            started = time.perf_counter()
            saver.save()
            saved = time.perf_counter()
            _gradients(ctx.model, rows)
            computed = time.perf_counter()
            saver.wait_for_copy()
            copied = time.perf_counter()
            saver.finish()
            if turn >= 0:
                self.alone.append(alone)
                self.beside.append(computed - saved)
                self.stall.append((saved - started) + (copied - computed))
                self.whole.append(time.perf_counter() - started)


def _gradients(model: nn.Module, rows: dict[str, torch.Tensor]) -> None:
    """A step's forward and backward pass, up to the update."""
    model(**rows)["loss"].backward()
    model.zero_grad(set_to_none=True)


def nexa_saves(folder: Path, recipe: Recipe, millions: float, rounds: int) -> Saves:
    """Train one step, then time saves."""
    store = FileStore()
    store.open((folder / "store").absolute().as_uri())
    events = EventWriter(folder / "events.jsonl")
    committer = StoreCommitter(store, run_id="bench", run_dir=folder, events=events, fields={"lineage": {}}, labels={})
    context = RunContext(
        run_id="bench",
        run_dir=folder,
        attempt=1,
        recipe=recipe.document(),
        rank=0,
        local_rank=0,
        world_size=1,
        events=events,
        checkpoints=committer,
        stop_requested=lambda: None,
    )
    module, saves = Data(recipe, 64), Saves(rounds, folder / "store")
    engine = TrainingEngine(
        recipe, Squares(recipe, module, millions), data_module=module, callbacks=[saves], context=context
    )
    assert engine.run().state is RunState.COMPLETED
    return saves


def trainer_saves(folder: Path, millions: float, rounds: int) -> list[float]:
    """Train one step with transformers, then time its saves."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder / "peer"), max_steps=1, use_cpu=True, report_to=[], per_device_train_batch_size=BATCH,
        save_strategy="no", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model=Model(millions), args=arguments, train_dataset=Rows(64))
    trainer.train()
    seconds = []
    for turn in range(-1, rounds):
        shutil.rmtree(folder / "peer", ignore_errors=True)
        started = time.perf_counter()
        trainer._save_checkpoint(trainer.model, trial=None)
        if turn >= 0:
            seconds.append(time.perf_counter() - started)
    return seconds


def seeks(recipe: Recipe, batches: int, rounds: int) -> dict[str, Timing]:
    """Time to the first batch behind `batches` others."""
    from accelerate import skip_first_batches
    from torch.utils.data import DataLoader

    rows = Rows(batches * BATCH * 2)
    seconds: dict[str, list[float]] = {"nexa": [], "skip_first_batches": []}
    for _ in range(rounds):
        loader, sampler = Data(recipe, len(rows)).train_dataloader(0, 1)
        next(iter(loader))
        started = time.perf_counter()
        sampler.select(start=batches, total_rows=len(rows))
        next(iter(loader))
        seconds["nexa"].append(time.perf_counter() - started)
        peer = DataLoader(rows, batch_size=BATCH, shuffle=True)
        started = time.perf_counter()
        next(iter(skip_first_batches(peer, batches)))
        seconds["skip_first_batches"].append(time.perf_counter() - started)
    return {name: Timing(name, tuple(values)) for name, values in seconds.items()}


def main(argv: Sequence[str] = ()) -> None:
    """Compare saves and seeks."""
    parser = argparse.ArgumentParser(prog="resume", description=__doc__)
    parser.add_argument("--millions", type=float, default=50.0, help="parameters of the model that is saved")
    parser.add_argument("--batches", type=int, default=20_000, help="batches before the place to find")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    recipe = Recipe.model_validate(
        {
            "method": "regression",
            "model": {"name": "mlp"},
            "data": {"remote_uri": "none"},
            "training": {"max_steps": 1, "microbatch_size_per_gpu": BATCH},
        }
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = trainer_saves(folder, options.millions, options.rounds)
        saves = nexa_saves(folder, recipe, options.millions, options.rounds)
    timings = {
        "nexa holds up": Timing("nexa holds up", tuple(saves.stall)),
        "nexa until committed": Timing("nexa until committed", tuple(saves.whole)),
        "Trainer holds up": Timing("Trainer holds up", tuple(peer)),
    }
    report(f"save of {options.millions:g}M parameters", timings, candidate="nexa holds up", target="≤0.1x Trainer")
    steps = {
        "beside a save": Timing("beside a save", tuple(saves.beside)),
        "alone": Timing("alone", tuple(saves.alone)),
    }
    report(f"forward and backward pass of {ROWS_A_STEP} rows", steps, candidate="beside a save")
    found = seeks(recipe, options.batches, options.rounds)
    report(f"to the batch behind {options.batches:,} others", found, candidate="nexa", target="≤0.05x")
