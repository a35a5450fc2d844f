"""Choices between kernels that compute the same thing: measured at start, reported, never lossy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

LARGEST_ERROR = 1e-5
"""Relative Frobenius error above which a fp32 product counts as lossy."""
_WORTHWHILE = 1.15
_PROBE_SECONDS = 0.8
_PROBE_WIDTH_LIMIT = 8192


@dataclass(frozen=True, kw_only=True)
class MatmulChoice:
    """Which library multiplies fp32 matrices on CPU, and the measurement behind it.

    speedup: oneDNN's speed ÷ the native library's on the probed shapes. relative_error: oneDNN's,
    against fp64. Both None where nothing was measured.
    """

    library: str
    reason: str
    speedup: float | None = None
    relative_error: float | None = None

    def report(self) -> dict[str, Any]:
        """The choice as plain JSON values."""
        return asdict(self)


def _precision_switch() -> Any:
    """The object whose `fp32_precision` routes fp32 products to oneDNN; None where torch has none."""
    switch = getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)
    if not torch.backends.mkldnn.is_available() or not hasattr(switch, "fp32_precision"):
        return None
    return switch


@contextmanager
def _routed(switch: Any, value: str) -> Iterator[None]:
    before = switch.fp32_precision
    switch.fp32_precision = value
    try:
        yield
    finally:
        switch.fp32_precision = before


def _seconds(left: torch.Tensor, right: torch.Tensor, budget: float) -> float:
    """Shortest time of a few products within `budget` seconds; the first one warms up."""
    torch.mm(left, right)
    best, end = float("inf"), time.perf_counter() + budget
    while True:
        start = time.perf_counter()
        torch.mm(left, right)
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def choose_cpu_matmul(wish: str, shapes: Sequence[tuple[int, int, int]]) -> MatmulChoice:
    """Route fp32 products on CPU as `wish` says ("auto", "native", "onednn") and tell what was chosen.

    shapes: (rows, inner, columns) of the products a step is made of. Asking torch for bf16 products
    sends them to oneDNN, which computes in fp32 where the processor has no bf16 unit; where it has
    one the measured error shows it, and the native library stays. "onednn" is refused the same way.
    """
    switch = _precision_switch()
    if switch is None:
        return MatmulChoice(library="native", reason="this torch build has no oneDNN switch")
    if wish == "native":
        return MatmulChoice(library="native", reason="chosen by the recipe")
    generator = torch.Generator().manual_seed(0)
    native = onednn = error = 0.0
    budget = _PROBE_SECONDS / (2 * max(1, len(shapes)))
    for rows, inner, columns in shapes:
        left = torch.randn(min(rows, _PROBE_WIDTH_LIMIT), inner, generator=generator)
        right = torch.randn(inner, min(columns, _PROBE_WIDTH_LIMIT), generator=generator)
        with _routed(switch, "bf16"):
            product = torch.mm(left[:64], right)
            exact = torch.mm(left[:64].double(), right.double())
            error = max(error, float((product.double() - exact).norm() / exact.norm()))
            onednn += _seconds(left, right, budget)
        native += _seconds(left, right, budget)
    speedup = native / onednn
    measured = {"speedup": round(speedup, 3), "relative_error": error}
    if error > LARGEST_ERROR:
        reason = f"oneDNN's relative error {error:.1e} is above {LARGEST_ERROR:.0e} here"
        return MatmulChoice(library="native", reason=reason, **measured)
    if wish == "auto" and speedup < _WORTHWHILE:
        return MatmulChoice(library="native", reason=f"oneDNN measured {speedup:.2f}× its speed", **measured)
    switch.fp32_precision = "bf16"
    reason = "chosen by the recipe" if wish == "onednn" else f"measured {speedup:.2f}× the native library's speed"
    return MatmulChoice(library="onednn", reason=f"{reason}, relative error {error:.1e}", **measured)


def cpu_flags() -> frozenset[str]:
    """Feature flags of the first processor; empty where /proc/cpuinfo does not exist."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())
