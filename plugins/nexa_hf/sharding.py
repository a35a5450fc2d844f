"""Sharding through accelerate where the processes have no GPU."""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from nexa.errors import WorkerError


def let_cpus_shard() -> None:
    """Make accelerate use its FSDP plugin in processes that train on a CPU; to be called before a trainer is made.

    All that accelerate calls to shard a model works over gloo, but it looks at the plugin of GPU processes alone.
    The device and the process group are chosen by now, and stay.
    """
    state = PartialState()
    if state.distributed_type is DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


def require_sharding(trainer: Any) -> None:
    """Raise WorkerError where a trainer that was to shard would train whole copies."""
    if trainer.accelerator.distributed_type is not DistributedType.FSDP:
        import accelerate

        raise WorkerError(
            f"accelerate {accelerate.__version__} does not shard on {trainer.accelerator.device.type}",
            hint="set distributed.strategy=ddp, or backend: torch",
        )
