"""A student's optimizer step: from records, beside the same engine's cross-entropy and TRL's GKD.

Model, rows, optimizer and processor time are the same for all; TRL's loss runs in a bare loop, without its trainer, and
its teacher is no larger than the student. Targets: a recorded student ≥0.95x as fast as cross-entropy, and ≥2x as fast
as GKD.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.bench._measure import measure, ratio, report
from tests.bench.bench_gradient import TEACHER, english
from torch import Tensor

from nexa.recipe.schema import Recipe
from nexa.recipe.sections.model import ModelSection
from nexa.testing.recipes import tiny_recipe
from nexa_distill.capture import capture
from nexa_distill.plan import make_plan
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.models import load_model, load_network, quiet_libraries, save_model
from nexa_torch.sources import resolve_source
from nexa_torch.tasks.registry import load_data_module, load_task


def sizes(options: argparse.Namespace) -> dict[str, Any]:
    """A llama's sizes with SmolLM2's vocabulary, as keys of `model`."""
    return {
        "name": "llama",
        "tokenizer": TEACHER,
        "d_model": options.width,
        "n_layers": options.layers,
        "n_heads": 4,
        "max_seq_len": options.row,
    }


def make_recipe(folder: Path, teacher: Path, options: argparse.Namespace, **more: Any) -> Recipe:
    """A recipe over some passages of English."""
    text = folder / "text.txt"
    text.write_text(english()[: 30 * options.row * options.rows], encoding="utf-8")
    own = {f"model.{key}": value for key, value in sizes(options).items()}
    data = {"data.remote_uri": str(text), "data.format": "text", "data.train_on": "all"}
    batch = {"training.microbatch_size_per_gpu": options.rows, "cluster.threads_per_process": None}
    return tiny_recipe(folder, {**own, **data, **batch, "distill.teacher": str(teacher), **more})


def make_teacher(folder: Path, options: argparse.Namespace) -> Path:
    """A model of the student's sizes with other weights."""
    section = ModelSection(**sizes(options))
    tokenizer = load_tokenizer(section)
    model = load_model(section, tokenizer, row_length=options.row, seed=5)
    state: dict[str, Any] = dict(model.network.state_dict())
    save_model(model, tokenizer, folder, state)
    return folder


def own_step(recipe: Recipe) -> Callable[[], object]:
    """A step of the own engine's task on the recipe's first batch."""
    module = load_data_module(recipe)
    module.setup()
    task = load_task(recipe, module)
    model, criterion = task.build_model(), task.build_criterion()
    optimizer = task.build_optimizer(model)
    batch = next(iter(module.train_dataloader(0, 1)[0]))

    def step() -> None:
        optimizer.zero_grad()
        task.train_step(batch, model, criterion)[0].backward()
        optimizer.step()

    return step


def trl_step(recipe: Recipe, teacher: Path) -> Callable[[], object]:
    """The same with TRL's GKD loss over logits of student and teacher."""
    from trl.experimental.gkd import GKDTrainer

    module = load_data_module(recipe)
    module.setup()
    batch = next(iter(module.train_dataloader(0, 1)[0]))
    student, other = (load_network(resolve_source(str(teacher))) for _ in range(2))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, foreach=True)
    inputs, labels = batch["input_ids"], batch["labels"]

    def step() -> None:
        optimizer.zero_grad()
        logits = student(input_ids=inputs, use_cache=False).logits
        with torch.no_grad():
            theirs = other(input_ids=inputs, use_cache=False).logits
        loss: Tensor = GKDTrainer.generalized_jsd_loss(logits, theirs, labels=labels, beta=0.5)
        loss.backward()
        optimizer.step()

    return step


def main(argv: Sequence[str]) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(prog="bench student", description=__doc__)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--row", type=int, default=256)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        teacher = make_teacher(folder / "teacher", options)
        plain = make_recipe(folder, teacher, options, method="pretrain")
        dataset = folder / "recorded"
        student = {"method": "distill", "distill.dataset": str(dataset), "distill.alpha": 0.9}
        recorded = make_recipe(folder, teacher, options, **student)
        capture(make_plan(recorded), dataset, processes=1)
        online = make_recipe(folder, teacher, options, **{"method": "distill", "distill.mode": "online"})
        steps = {"recorded": own_step(recorded), "cross-entropy": own_step(plain), "online": own_step(online)}
        steps["TRL GKD"] = trl_step(plain, teacher)
        timings = measure(steps, rounds=options.rounds, clock=time.process_time)
    shape = f"{options.rows} rows of {options.row}, {options.layers} layers of {options.width}"
    report(f"a student's step, {shape}, processor time", timings, candidate="recorded")
    ce, gkd = (1 / ratio(timings["recorded"], timings[name]) for name in ("cross-entropy", "TRL GKD"))
    print(f"  recorded is {ce:.2f}x as fast as cross-entropy  [target: ≥0.95x], {gkd:.2f}x as fast as GKD  [≥2x]")
