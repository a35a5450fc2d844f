"""What a process computes on: CUDA, TPU, XPU, MPS or the CPU, which of several, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch

from nexa.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DeviceChoice:
    """The device of one process. backend: name of its collectives. reason: why this one, in words."""

    device: torch.device
    backend: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One kind of device. count: how many this machine has. select: makes one the process's own."""

    name: str
    backend: str
    count: Callable[[], int]
    select: Callable[[int], torch.device]


def _cuda(index: int) -> torch.device:
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _xpu(index: int) -> torch.device:
    torch.xpu.set_device(index)
    return torch.device("xpu", index)


def _tpu(index: int) -> torch.device:
    from torch_xla.core import xla_model

    return torch.device(xla_model.xla_device(index))


def _tpu_count() -> int:
    if importlib.util.find_spec("torch_xla") is None:
        return 0
    from torch_xla import runtime

    return int(runtime.addressable_device_count()) if runtime.device_type() == "TPU" else 0


# Each accelerator's collectives beside gloo's, so that tensors of either place can be reduced.
_KINDS: tuple[_Kind, ...] = (
    _Kind(name="cuda", backend="cpu:gloo,cuda:nccl", count=lambda: torch.cuda.device_count(), select=_cuda),
    _Kind(name="tpu", backend="xla", count=_tpu_count, select=_tpu),
    _Kind(name="xpu", backend="cpu:gloo,xpu:xccl", count=lambda: torch.xpu.device_count(), select=_xpu),
    _Kind(
        name="mps",
        backend="gloo",
        count=lambda: int(torch.backends.mps.is_available()),
        select=lambda index: torch.device("mps"),
    ),
)
_CPU = _Kind(name="cpu", backend="gloo", count=lambda: 1, select=lambda index: torch.device("cpu"))


class DeviceManager:
    """Chooses the device of a process.

    kind: "auto" for the first that this machine has of CUDA, TPU, XPU, MPS and CPU, or one by name.
    """

    def __init__(self, kind: str = "auto") -> None:
        known = {item.name: item for item in (*_KINDS, _CPU)}
        if kind != "auto" and kind not in known:
            raise UserError(f"unknown device {kind!r}", hint=f"known: auto, {', '.join(known)}")
        self._kind = kind
        self._known = known

    @staticmethod
    def available() -> dict[str, int]:
        """Number of devices of every kind on this machine."""
        return {kind.name: kind.count() for kind in (*_KINDS, _CPU)}

    def choose(self, local_rank: int = 0) -> DeviceChoice:
        """The device of the process `local_rank` on this machine.

        Raises UserError where the kind asked for is not here, or has fewer devices than processes.
        """
        if self._kind == "cpu":
            return DeviceChoice(device=_CPU.select(0), backend=_CPU.backend, reason="the CPU was asked for")
        counts = self.available()
        if self._kind != "auto":
            kind = self._known[self._kind]
            self._require(kind, counts, local_rank)
            reason = f"{kind.name} was asked for; this machine has {counts[kind.name]}"
            return DeviceChoice(device=kind.select(local_rank), backend=kind.backend, reason=reason)
        for kind in _KINDS:
            if counts[kind.name]:
                self._require(kind, counts, local_rank)
                reason = f"{kind.name} is the first of {', '.join(self._known)} that this machine has"
                return DeviceChoice(device=kind.select(local_rank), backend=kind.backend, reason=reason)
        return DeviceChoice(device=_CPU.select(0), backend=_CPU.backend, reason="this machine has no accelerator")

    def _require(self, kind: _Kind, counts: dict[str, int], local_rank: int) -> None:
        found = counts[kind.name]
        if found == 0:
            here = ", ".join(name for name, count in counts.items() if count)
            raise UserError(
                f"the run asks for {kind.name} and torch sees none; this machine has: {here}",
                hint="set cluster.gpus_per_node=0 to train on CPU, or install a build of torch for the device; "
                "see: nexa doctor",
            )
        # MPS is one device that processes share.
        if local_rank >= found and kind.name != "mps":
            raise UserError(
                f"process {local_rank} on this machine needs {kind.name} device {local_rank} and torch sees {found}",
                hint=f"set cluster.gpus_per_node={found}, or start at most {found} processes on a machine",
            )
