"""The recipe sections `cluster` and `distributed`: which machines, and how a model is spread over them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nexa.quantities import DURATION, MEMORY, seconds_of
from nexa.recipe.sections.base import NonNegativeInt, PositiveInt, Section


class ClusterSection(Section):
    """Machines the run asks for, in scheduler-neutral words."""

    num_nodes: PositiveInt = 1
    """Number of machines."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs on each machine, one worker process each; 0 trains on CPU."""
    processes_per_node: PositiveInt | None = None
    """Worker processes on each machine. Default: gpus_per_node, at least 1."""
    threads_per_process: PositiveInt | None = None
    """CPU threads of each worker process. Default: the machine's cores ÷ processes."""
    cpus_per_node: PositiveInt | None = None
    """CPU cores asked for on each machine. Default: threads_per_process × processes, else what the scheduler gives."""
    memory_per_node: str | None = Field(default=None, pattern=MEMORY)
    """Memory asked for on each machine, such as "64G" (powers of 1024). Default: what the scheduler gives."""
    time_limit: str | None = Field(default=None, pattern=DURATION)
    """Longest time the run may go on at a stretch: "90m", "12h", "1d 6h" or "1-06:00:00". Default: the scheduler's."""
    stop_lead_seconds: PositiveInt = 120
    """Seconds before the time limit at which a checkpoint is saved and the run stops."""
    max_restarts: NonNegativeInt = 10
    """Times the scheduler may start the run again by itself, from its newest checkpoint, after a time limit,
    a preemption or a lost machine."""

    @property
    def time_limit_seconds(self) -> int | None:
        """`time_limit` in seconds."""
        return None if self.time_limit is None else seconds_of(self.time_limit)

    @model_validator(mode="after")
    def _time_to_train(self) -> Self:
        limit = self.time_limit_seconds
        if limit is not None and limit <= self.stop_lead_seconds:
            raise ValueError(
                f"stop_lead_seconds ({self.stop_lead_seconds}) leaves no time to train within "
                f"time_limit ({limit} s); raise time_limit or lower stop_lead_seconds"
            )
        return self


class DistributedSection(Section):
    """How a model is spread over the processes of a run; a strategy may be given by its name alone."""

    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """ddp: a whole copy of the model on each process. fsdp: each process keeps a part of weights, gradients and
    optimizer state. auto: ddp."""
    timeout_seconds: Annotated[float, Field(ge=1.0)] = 600.0
    """Seconds that processes wait for one another: to meet at the start, and in every exchange after it."""
    reshard_after_forward: bool = True
    """fsdp: let a block's weights go after its forward pass and gather them again for the backward pass; less
    memory, more traffic."""
    cpu_offload: bool = False
    """fsdp on GPUs: keep weights, gradients and optimizer state in CPU memory."""
