"""How well the hardware is used: model FLOPs utilisation, and traces of the torch profiler."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import torch

from nexa_torch.callbacks.base import Callback, CallbackContext

_TERA = 1e12

_GPU_PEAKS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250.0, 75.0),
    ("GH200", 989.4, 67.0),
    ("H200", 989.4, 67.0),
    ("H100 PCIe", 756.0, 51.0),
    ("H100 NVL", 835.0, 60.0),
    ("H100", 989.4, 67.0),
    ("A100", 312.0, 19.5),
    ("A40", 149.7, 37.4),
    ("A10G", 70.0, 35.0),
    ("A10", 125.0, 31.2),
    ("L40S", 362.0, 91.6),
    ("L4", 121.0, 30.3),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 3090", 71.0, 35.6),
    ("V100", 125.0, 15.7),
    ("T4", 65.0, 8.1),
)
"""Part of the device's name, dense 16-bit matrix TFLOP/s, fp32 TFLOP/s: figures of the vendors' data sheets.

The first match holds, so longer names stand before those they contain."""

_PROBE_WIDTH = 1024
_PROBE_SECONDS = 0.3


def peak_flops(device: torch.device, precision: str) -> tuple[float, str]:
    """Peak FLOP/s of a device in a precision, and where that number is from.

    From the vendor's data sheet for GPUs known by name, else measured: the fastest of repeated square
    matrix products, which is what a perfect program could reach, not what the vendor states.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, half, full in _GPU_PEAKS:
            if part in name:
                kind = "fp32" if precision == "fp32" else "16-bit"
                return (full if precision == "fp32" else half) * _TERA, f"{name}, {kind} peak of the data sheet"
    return measured_flops(device, precision), f"measured: {precision} product of {_PROBE_WIDTH}² matrices"


def measured_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of the fastest of repeated products of square matrices; takes about a third of a second."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    left = torch.randn(_PROBE_WIDTH, _PROBE_WIDTH, device=device).to(dtype)
    fastest = float("inf")
    deadline = time.perf_counter() + _PROBE_SECONDS
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        product = left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, time.perf_counter() - started)
    del product
    return 2.0 * _PROBE_WIDTH**3 / fastest


class ThroughputCallback(Callback):
    """Adds "mfu" to log records: FLOP/s that the task needs for what it trained on ÷ the devices' peak."""

    priority: ClassVar[int] = 5

    def __init__(self, peak: float | None = None) -> None:
        """peak: FLOP/s of one device. Default: see `peak_flops`."""
        self._peak = peak

    def on_train_begin(self, ctx: CallbackContext) -> None:
        """Find the peak and say where it is from."""
        source = "given"
        if self._peak is None:
            self._peak, source = peak_flops(ctx.ranks.device, ctx.engine.recipe.training.precision)
        ctx.write(
            "message", level="info", text=f"mfu is a share of {self._peak / _TERA:.3g} TFLOP/s a process: {source}"
        )

    def on_log(self, ctx: CallbackContext) -> None:
        """Add the share to the record."""
        task = ctx.engine.task
        flops = task.flops(ctx.model, 1)
        if flops is not None and self._peak:
            rate = ctx.log[f"{task.unit}_per_second"] * flops
            ctx.log["mfu"] = rate / (self._peak * ctx.ranks.world_size)


class ProfilerCallback(Callback):
    """Records some steps with the torch profiler, into `profile/` of the run's folder.

    `trace-rankN.json` opens in chrome://tracing or Perfetto; `operators-rankN.txt` lists the costliest operators.
    """

    priority: ClassVar[int] = 90

    def __init__(self, steps: int, *, warmup: int = 2, folder: str | Path | None = None) -> None:
        """steps: recorded optimizer steps, behind `warmup` others. folder: default `profile` in the run's."""
        self._steps = steps
        self._warmup = warmup
        self._folder = Path(folder) if folder is not None else None
        self._profiler: Any = None
        self._seen = 0

    def on_step_begin(self, ctx: CallbackContext) -> None:
        """Begin to record."""
        if self._seen == self._warmup:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if ctx.ranks.device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities, profile_memory=True)
            self._profiler.start()
        self._seen += 1

    def on_step_end(self, ctx: CallbackContext) -> None:
        """Write what was recorded, once it is enough."""
        if self._profiler is not None and self._seen == self._warmup + self._steps:
            self._write(ctx)

    def on_train_end(self, ctx: CallbackContext) -> None:
        """Write what was recorded, where training ended earlier."""
        if self._profiler is not None:
            self._write(ctx)

    def _write(self, ctx: CallbackContext) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        folder = self._folder or (ctx.run_dir or Path()) / "profile"
        folder.mkdir(parents=True, exist_ok=True)
        rank = ctx.ranks.rank
        trace = folder / f"trace-rank{rank}.json"
        profiler.export_chrome_trace(str(trace))
        order = "self_cuda_time_total" if ctx.ranks.device.type == "cuda" else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=40)
        (folder / f"operators-rank{rank}.txt").write_text(table + "\n", encoding="utf-8")
        ctx.write("message", level="info", text=f"profile of {self._steps} steps: {trace}")
