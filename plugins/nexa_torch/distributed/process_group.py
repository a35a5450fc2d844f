"""Joining the other processes of a run: meet, check that all are there, try one collective, then train."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count

import torch
import torch.distributed as dist
from torch.distributed import Store

from nexa.errors import NexaError, WorkerError
from nexa_torch.distributed.devices import DeviceChoice, DeviceManager
from nexa_torch.distributed.environment import RankEnvironment, detect_environment
from nexa_torch.distributed.presence import Presence, join_roll
from nexa_torch.distributed.ranks import Ranks

DEFAULT_TIMEOUT_SECONDS = 600.0
_ACCELERATOR_MARGIN_SECONDS = 120.0
_POLL_SECONDS = 0.02
_JOINS = count()
"""Groups that this process has joined, the same on every rank."""


@contextmanager
def process_group(
    rank: int, local_rank: int, world_size: int, *, gpus: int, timeout: float = DEFAULT_TIMEOUT_SECONDS
) -> Iterator[Ranks]:
    """Join the group that the launcher's variables describe, for as long as the block runs.

    gpus: GPUs the recipe asks for on each node; 0 trains on CPU. timeout: seconds that meeting, and
    every collective after it, may take. A collective that fails inside the block raises WorkerError
    naming the rank that failed, ended or fell silent. Raises UserError without a usable GPU, and
    WorkerError where the processes can't meet.
    """
    choice = DeviceManager("auto" if gpus else "cpu").choose(local_rank)
    if gpus and choice.device.type == "cpu":
        DeviceManager("cuda").choose(local_rank)
    place = detect_environment()
    if world_size > 1 and (place.rank, place.world_size) != (rank, world_size):
        raise WorkerError(
            f"the run started this process as rank {rank} of {world_size}, "
            f"and {place.source} says rank {place.rank} of {place.world_size}",
            hint="unset the rank variables that another launcher left",
        )
    ranks = Ranks(rank=rank, world_size=world_size, device=choice.device)
    if world_size == 1:
        yield ranks
        return
    with join(replace(place, local_rank=local_rank), choice, timeout=timeout) as joined:
        yield joined


@contextmanager
def join(place: RankEnvironment, choice: DeviceChoice, *, timeout: float) -> Iterator[Ranks]:
    """Form the group of more than one process; see `process_group`."""
    store = meet(place, timeout)
    # torchrun's store outlives a group: the next one of the same processes must not read the last one's words.
    prefix = f"nexa/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_JOINS)}"
    presence = join_roll(
        dist.PrefixStore(f"{prefix}/roll", store),
        rank=place.rank,
        world_size=place.world_size,
        device=str(choice.device),
        timeout=timeout,
    )
    ranks = None
    failed = False
    # NCCL ends a process that waits too long, without a word; the control group, which names who is late, comes first.
    patience = timeout if choice.device.type == "cpu" else timeout + _ACCELERATOR_MARGIN_SECONDS
    try:
        dist.init_process_group(
            choice.backend,
            store=dist.PrefixStore(f"{prefix}/group", store),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=patience),
        )
        background, control = (dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout)) for _ in range(2))
        ranks = Ranks(
            rank=place.rank,
            world_size=place.world_size,
            device=choice.device,
            local_rank=place.local_rank,
            background=background,
            control=control,
            presence=presence,
        )
        probe_collective(ranks, timeout=timeout)
        yield ranks
    except NexaError as error:
        failed = True
        presence.fail(error)
        raise
    except Exception as error:
        failed = True
        # A failed collective is a failure of someone else; anything else is this rank's own.
        if not _is_collective_failure(error):
            presence.fail(error)
            raise
        raise presence.explain(error, timeout=timeout) from error
    finally:
        presence.finish()
        # Closing NCCL in order waits for what is under way on the GPU, which after a failure never ends.
        if dist.is_initialized() and not (failed and choice.device.type == "cuda"):
            dist.destroy_process_group()


def meet(place: RankEnvironment, timeout: float) -> Store:
    """The store that all processes meet at; rank 0 holds it unless torchrun already does."""
    if place.master_addr is None:
        raise WorkerError("several processes were started without MASTER_ADDR, so they can't meet")
    port = place.master_port or 29500
    held_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        return dist.TCPStore(
            place.master_addr,
            port,
            place.world_size,
            is_master=place.rank == 0 and not held_by_torchrun,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (dist.DistError, RuntimeError) as error:
        raise WorkerError(
            f"rank {place.rank} can't meet the others at {place.master_addr}:{port} "
            f"within {timeout:g} s: {str(error).strip().splitlines()[0]}",
            hint="is the first machine up, is its name known here, and does a firewall let the port through? "
            "a longer wait: distributed.timeout_seconds",
        ) from error


def probe_collective(ranks: Ranks, *, timeout: float) -> None:
    """Add one number over all ranks, before anything costly is loaded.

    Raises WorkerError naming who did not come to it within `timeout` seconds, and where the sum is wrong.
    """
    presence = ranks.presence
    assert presence is not None, "a group of several processes has a roll"
    presence.arrived("probe")
    value = torch.ones(1, device=ranks.device)
    try:
        work = dist.all_reduce(value, async_op=True)
        deadline = time.monotonic() + timeout
        while not work.is_completed():
            if time.monotonic() > deadline:
                raise _probe_failure(presence, timeout)
            time.sleep(_POLL_SECONDS)
        work.wait()
    except RuntimeError as error:
        raise presence.explain(error, timeout=timeout) from error
    if value.item() != ranks.world_size:
        raise WorkerError(f"a sum of ones over {ranks.world_size} processes came to {value.item():g}")


def _probe_failure(presence: Presence, timeout: float) -> WorkerError:
    late = presence.absent_from("probe")
    if late:
        names = ", ".join(map(str, late))
        return WorkerError(
            f"{names} did not come to the first collective within {timeout:g} s",
            hint="see its log; a longer wait: distributed.timeout_seconds",
        )
    names = ", ".join(map(str, presence.present))
    return WorkerError(
        f"the first collective did not complete within {timeout:g} s, though all take part: {names}",
        hint="the processes meet but can't exchange data: choose the network with "
        "NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME, and see NCCL_DEBUG=INFO",
    )


def _is_collective_failure(error: Exception) -> bool:
    """Whether torch's collectives raised it; gloo raises plain RuntimeErrors that carry its file names."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(mark in text for mark in ("gloo", "NCCL", "ProcessGroup"))
