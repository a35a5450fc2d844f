"""One rank that builds a sharded model of about 100 MB and says how much memory that took: FOLDER."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from running import chat_rows, tiny_recipe

from nexa_torch.distributed.process_group import process_group
from nexa_torch.distributed.strategy import choose_strategy
from nexa_torch.options import recipe_from_document
from nexa_torch.tasks.registry import load_data_module, load_task


def peak_bytes() -> int:
    """The most memory that this process has held since the last reset."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    """Build and shard the model; the peak before it is subtracted."""
    folder = Path(sys.argv[1])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    (folder / str(rank)).mkdir()
    document = tiny_recipe(
        chat_rows(folder / str(rank)),
        model={"d_model": 512, "n_layers": 8, "n_heads": 8},
        data={"packing": True, "local_cache_root": str(folder / str(rank) / "cache")},
        cluster={"processes_per_node": world_size},
        distributed={"strategy": "fsdp"},
    )
    recipe = recipe_from_document(document)
    module = load_data_module(recipe)
    module.setup("fit")
    task = load_task(recipe, module)
    with process_group(rank, rank, world_size, gpus=0, timeout=120.0) as ranks:
        strategy = choose_strategy(recipe.distributed, ranks, precision="fp32")
        # What the first model of a process brings with it, libraries above all, is none of its weights.
        small = {**document, "model": {**document["model"], "n_layers": 1, "d_model": 32}}
        load_task(recipe_from_document(small), module).build_model()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = peak_bytes()
        model = strategy.spread(strategy.build(task, None), task)
        grown = peak_bytes() - before
        size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        (folder / f"{rank}.json").write_text(json.dumps({"grown": grown, "model": size}), encoding="utf-8")


if __name__ == "__main__":
    main()
