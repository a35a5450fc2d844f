"""One rank that reads a file of tensors into its shards and writes them to another file: SOURCE TARGET."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from nexa_torch.distributed.process_group import process_group
from nexa_torch.distributed.tensor_file import load_tensors, save_tensors


def main() -> None:
    """Load, and save again, on however many ranks there are."""
    source, target = map(Path, sys.argv[1:])
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    shapes = {name: tensor.zero_() for name, tensor in load_file(source).items()}
    with process_group(rank, rank, world_size, gpus=0, timeout=120.0):
        if world_size > 1:
            mesh = init_device_mesh("cpu", (world_size,))
            shapes = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in shapes.items()}
        group = dist.group.WORLD if world_size > 1 else None
        load_tensors(source, shapes, group=group)
        save_tensors(target, shapes, group=group)


if __name__ == "__main__":
    main()
