"""One rank that trains a tiny model a few steps with a strategy, once for each case: STRATEGY FOLDER.

Rank 0 writes losses, gradient norms and the final weights. The last step has rows for rank 0 only. With shards every
rank then says how much memory loading a larger model takes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from running import chat_rows, tiny_recipe
from safetensors.torch import save_file
from torch.nn.utils import clip_grads_with_norm_

from nexa.recipe.sections.machines import DistributedSection
from nexa.recipe.sections.model import AdapterSection, ModelSection
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.distributed.process_group import process_group
from nexa_torch.distributed.ranks import Ranks
from nexa_torch.distributed.strategy import choose_strategy
from nexa_torch.distributed.synchronize import gradient_norm
from nexa_torch.engine.windows import Microbatch
from nexa_torch.models import LanguageModel, apply_lora, load_model
from nexa_torch.options import recipe_from_document
from nexa_torch.tasks.registry import load_data_module, load_task

CASES = ("pretrain", "sft", "lora")
STEPS, ROWS_A_STEP, WIDTH = 3, 4, 24


def rows(step: int, masked: bool) -> list[dict[str, torch.Tensor]]:
    """The rows of a step, one microbatch each; fewer in the last step, and unequal in trained tokens."""
    generator = torch.Generator().manual_seed(step)
    made = []
    for row in range(1 if step == STEPS - 1 else ROWS_A_STEP):
        tokens = torch.randint(3, 250, (1, WIDTH), generator=generator)
        labels = torch.cat([tokens[:, 1:], torch.full((1, 1), -100)], dim=1)
        if masked:
            labels[:, : 3 + 4 * row] = -100
        positions = torch.arange(WIDTH).unsqueeze(0)
        made.append({"input_ids": tokens, "labels": labels, "positions": positions})
    return made


class Loss:
    """The little of a task that a strategy needs: a step method that uses the output head's weight itself."""

    uses_weights = True

    def __init__(self, model: LanguageModel) -> None:
        self.train_step = self.validation_step = self.sampled_step = model.loss_sum


def train(ranks: Ranks, strategy_name: str, case: str, folder: Path) -> None:
    """Train one case and report."""
    section = ModelSection(
        name="llama", tokenizer="bytes", d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=WIDTH
    )
    model = load_model(section, load_tokenizer(section), row_length=WIDTH, seed=7)
    if case == "lora":
        apply_lora(model, AdapterSection(rank=4, alpha=8.0), seed=7)
        for number, parameter in enumerate(p for p in model.network.parameters() if p.requires_grad):
            torch.manual_seed(number)
            torch.nn.init.normal_(parameter, std=0.05)
    distributed = DistributedSection.model_validate({"strategy": strategy_name})
    strategy = choose_strategy(distributed, ranks, precision="fp32")
    task = Loss(model)
    strategy.spread(model.network, task)
    parameters = [p for p in model.network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses, norms = [], []
    for step in range(STEPS):
        batches = rows(step, masked=case == "sft")
        scale = 1.0 / sum(int((batch["labels"] != -100).sum()) for batch in batches)
        mine = batches[ranks.rank :: ranks.world_size]
        parts = [Microbatch(number=number, batch=batch, weight=1, size=1) for number, batch in enumerate(mine)]
        total = torch.zeros(())
        for part, last in strategy.passes(parts, lambda batches=batches: batches[0]):
            loss = task.train_step(part.batch, scale=scale * part.weight, chunk=16)
            with strategy.last_backward(last):
                loss.backward()
            total += loss.detach()
        strategy.sum_gradients()
        norm = gradient_norm(parameters)
        clip_grads_with_norm_(parameters, 0.5, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(ranks.sum(total).item())
        norms.append(float(norm))
    weights = strategy.full_state(model.network, trained_only=model.adapter is not None)
    if ranks.is_main:
        (folder / f"{case}.json").write_text(json.dumps({"losses": losses, "norms": norms}))
        save_file({name: value.clone() for name, value in weights.items()}, folder / f"{case}.safetensors")


def peak_bytes() -> int:
    """The most memory that this process has held since the last reset."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def report_loading(ranks: Ranks, folder: Path) -> None:
    """Write how much memory it takes each rank to build and shard a model of about 90 MB."""
    own = folder / str(ranks.rank)
    own.mkdir()
    document = tiny_recipe(
        chat_rows(own),
        model={"d_model": 512, "n_layers": 8, "n_heads": 8},
        data={"local_cache_root": str(own / "cache")},
        distributed={"strategy": "fsdp"},
    )
    recipe = recipe_from_document(document)
    module = load_data_module(recipe)
    module.setup("fit")
    task = load_task(recipe, module)
    strategy = choose_strategy(recipe.distributed, ranks, precision="fp32")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = peak_bytes()
    model = strategy.spread(strategy.build(task, None), task)
    grown = peak_bytes() - before
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    (own / "memory.json").write_text(json.dumps({"grown": grown, "model": size}), encoding="utf-8")


def main() -> None:
    """Train every case in one group."""
    strategy, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    with process_group(rank, rank, world_size, gpus=0, timeout=120.0) as ranks:
        for case in CASES:
            train(ranks, strategy, case, folder)
        if strategy == "fsdp":
            report_loading(ranks, folder)


if __name__ == "__main__":
    main()
