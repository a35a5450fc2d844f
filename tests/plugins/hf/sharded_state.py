"""Run on two ranks by test_hf_sharded.py: trainer state of a model that is sharded over them, saved and restored."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from nexa_hf.checkpoints import FOLDER, Cursor, optimizer_state, restore_optimizer, write_optimizer, write_state

SHARED = {"total_steps": 9, "method": "sft", "dataset_hash": "", "rows": 1, "global_batch_size": 1, "seed": 0}


def network(*, shard: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Two layers, of which one is frozen as under an adapter, and their optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5))
    model[0].bias.requires_grad_(False)
    if shard:
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    """One update on rows that are the same on every rank."""
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(number))
    model(rows).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights, whole, on rank 0."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {name: value.clone() for name, value in get_model_state_dict(model, options=options).items()}


def main(folder: Path) -> None:
    """Train three steps in one go, and two, saved and restored, and one; both with and without shards."""
    dist.init_process_group("gloo")
    main_rank = dist.get_rank() == 0
    results = {}
    for shard in (False, True):
        whole, optimizer = network(shard=shard)
        for number in range(2):
            step(whole, optimizer, number)
        tensors, described = optimizer_state(whole, optimizer)
        target = folder / str(shard)
        if main_rank:
            (target / FOLDER).mkdir(parents=True)
            write_optimizer(target, tensors)
            cursor = Cursor(step=2, tokens_seen=0, world_size=2, **SHARED)
            write_state(target, cursor, schedule={}, scaler={}, optimizer=described)
        saved = weights(whole)
        step(whole, optimizer, 2)
        dist.barrier()
        again, fresh = network(shard=shard)
        state = [saved if main_rank else None]
        dist.broadcast_object_list(state, src=0)
        from torch.distributed.checkpoint.state_dict import set_model_state_dict

        set_model_state_dict(again, state[0], options=StateDictOptions(full_state_dict=True))
        restore_optimizer(target, again, fresh)
        step(again, fresh, 2)
        results[shard] = (tensors, weights(whole), weights(again))
    if main_rank:
        for part in range(2):
            assert results[True][part].keys() == results[False][part].keys()
            for name, value in results[False][part].items():
                torch.testing.assert_close(results[True][part][name], value)
        for _, straight, restored in results.values():
            assert all(torch.equal(straight[name], restored[name]) for name in straight)
        print("equal")
    dist.destroy_process_group()


main(Path(sys.argv[1]))
