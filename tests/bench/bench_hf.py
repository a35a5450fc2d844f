"""What backend `hf` costs beside plain TRL: the same fine-tuning job through Nexa and as a script, in turns.

Both train the same model folder on the same JSON Lines file in one process, fp32 on the CPU, with TRL's packing. A
step's time is that between the beginnings of two steps, by the clock and by processor time, over all steps of
a round but the first and last; the time to the first step counts from before model and data are loaded.
Ratios are medians over rounds, since other work on the machine slows both. Losses must be equal to the last digit.

Targets: at most 2 % a step, at most 1 s to the first step.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from nexa.events.writer import EventWriter
from nexa.recipe.schema import Recipe
from nexa.worker.checkpoints import StoreCommitter
from nexa.worker.context import RunContext
from nexa_file.store import FileStore
from nexa_hf.run import make_trainer
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.distributed.process_group import process_group
from nexa_torch.models import load_model, quiet_libraries, save_model
from nexa_torch.run import set_threads

ROW, ROWS_A_STEP, DOCUMENTS, SEED, RATE = 256, 4, 400, 1, 1e-3
WORDS = ("the", "sea", "ship", "captain", "wind", "harbour", "star", "map", "rope", "sail", "anchor", "storm")


class Clock(TrainerCallback):
    """When each step began, by the clock and by processor time, and what was logged."""

    def __init__(self) -> None:
        self.started = (time.perf_counter(), time.process_time())
        self.begun: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time."""
        self.begun.append((time.perf_counter(), time.process_time()))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the loss."""
        if "loss" in logs:
            self.losses.append(logs["loss"])


@dataclass(frozen=True)
class Round:
    """Seconds of a step and to the first one, each by the clock and by processor time; the losses."""

    step: tuple[float, float]
    first: tuple[float, float]
    losses: tuple[float, ...]


def read(clock: Clock) -> Round:
    """The figures of a finished round."""
    steps = len(clock.begun) - 2
    step = tuple((clock.begun[-1][i] - clock.begun[1][i]) / steps for i in range(2))
    first = tuple(clock.begun[0][i] - clock.started[i] for i in range(2))
    return Round((step[0], step[1]), (first[0], first[1]), tuple(clock.losses))


def write_documents(path: Path) -> None:
    """Write conversations of different lengths."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(DOCUMENTS):
            question, answer = (" ".join(rng.choices(WORDS, k=rng.randint(2, most))) for most in (6, 16))
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")


def recipe_of(data: Path, model: str, cache: Path, steps: int, sizes: dict[str, Any]) -> Recipe:
    """The job as a recipe."""
    return Recipe.from_document(
        {
            "method": "sft",
            "backend": "hf",
            "model": {"name": model, "max_seq_len": ROW, **sizes},
            "data": {"remote_uri": str(data), "local_cache_root": str(cache)},
            "training": {"max_steps": steps, "microbatch_size_per_gpu": ROWS_A_STEP, "seed": SEED},
            "optimizer": {"lr": RATE, "scheduler": "linear"},
        }
    )


def through_nexa(folder: Path, recipe: Recipe) -> Round:
    """One run, its events written as always."""
    clock = Clock()
    folder.mkdir()
    store = FileStore()
    store.open((folder / "store").as_uri())
    events = EventWriter(folder / "events.jsonl")
    committer = StoreCommitter(store, run_id="run", run_dir=folder, events=events, fields={"lineage": {}}, labels={})
    context = RunContext(
        run_id="run", run_dir=folder, attempt=1, recipe=recipe.document(), rank=0, local_rank=0, world_size=1,
        events=events, checkpoints=committer, stop_requested=lambda: None,
    )  # fmt: skip
    with process_group(0, 0, 1, gpus=0) as ranks:
        _, trainer = make_trainer(context, recipe, ranks)
        trainer.add_callback(clock)
        trainer.train()
    events.close()
    return read(clock)


def plain(folder: Path, data: Path, model: Path, steps: int) -> Round:
    """The same job as a script with TRL."""
    clock = Clock()
    config = SFTConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=ROWS_A_STEP, seed=SEED,
        learning_rate=RATE, lr_scheduler_type="linear", adam_beta2=0.95, logging_steps=1, bf16=False,
        gradient_checkpointing=False, use_cpu=True, packing=True, max_length=ROW, assistant_only_loss=True,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=config,
        train_dataset=load_dataset("json", data_files=str(data), split="train", cache_dir=str(folder / "cache")),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    trainer.train()
    return read(clock)


def compare(
    title: str, ours: Sequence[Round], theirs: Sequence[Round], of: Callable[[Round], tuple[float, float]]
) -> None:
    """Print both sides' medians and the median over rounds of their ratio and difference."""
    for index, measure in enumerate(("clock", "processor")):
        mine, peers = ([of(each)[index] for each in rounds] for rounds in (ours, theirs))
        ratio = statistics.median(a / b for a, b in zip(mine, peers, strict=True))
        difference = statistics.median(a - b for a, b in zip(mine, peers, strict=True))
        print(
            f"{title}, {measure:9}: nexa {statistics.median(mine):8.4f} s  plain {statistics.median(peers):8.4f} s  "
            f"ratio {ratio:.4f}  difference {difference:+.4f} s"
        )


def main(argv: list[str]) -> None:
    """Run the rounds and print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench hf")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(argv)
    quiet_libraries()
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, base = folder / "rows.jsonl", folder / "base"
        write_documents(data)
        sizes = {"tokenizer": "bytes", "d_model": 256, "n_layers": 4, "n_heads": 4}
        scratch = recipe_of(data, "llama", folder, options.steps, sizes)
        set_threads(scratch)
        tokenizer = load_tokenizer(scratch.model)
        model = load_model(scratch.model, tokenizer, row_length=ROW, seed=SEED)
        base.mkdir()
        save_model(model, tokenizer, base, model.network.state_dict())
        ours, theirs = [], []
        for number in range(options.rounds + 1):
            cache = folder / f"cache-{number}"
            mine = through_nexa(folder / f"run-{number}", recipe_of(data, str(base), cache, options.steps, {}))
            peer = plain(folder / f"plain-{number}", data, base, options.steps)
            assert mine.losses == peer.losses, "the losses differ"
            if number:
                ours.append(mine)
                theirs.append(peer)
    print(f"{options.rounds} rounds of {options.steps} steps; losses equal to the last digit")
    compare("a step           ", ours, theirs, lambda each: each.step)
    compare("to the first step", ours, theirs, lambda each: each.first)
