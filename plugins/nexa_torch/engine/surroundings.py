"""What an engine decides and says before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from nexa_torch.kernels.matmul import MatmulChoice, choose_cpu_matmul, cpu_flags
from nexa_torch.options import torch_options

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa_torch.engine.engine import TrainingEngine

_FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


def choose_matmul(
    recipe: Recipe, shapes: Sequence[tuple[int, int, int]], device: torch.device, *, chosen: str | None
) -> MatmulChoice:
    """Decide which library multiplies fp32 matrices on CPU; a resumed run keeps what was `chosen`."""
    if device.type != "cpu":
        return MatmulChoice(library="native", reason="only CPU training has a choice")
    if recipe.training.precision != "fp32":
        return MatmulChoice(library="native", reason="only fp32 training has a choice")
    if not shapes:
        return MatmulChoice(library="native", reason="this task's products are small")
    return choose_cpu_matmul(chosen or torch_options(recipe).cpu_matmul, list(shapes))


def announce(engine: TrainingEngine) -> None:
    """Write what a person should know before the first step."""

    def write(text: str, level: str = "info") -> None:
        engine.events.write("message", level=level, text=text)

    first, *others = engine.task.notes(engine.model)
    write(f"{first}; {engine.plan}; {torch.get_num_threads()} threads")
    write(f"fp32 matrix products: {engine.matmul.library} ({engine.matmul.reason})")
    for note in (*others, *engine.data_module.notes()):
        write(note)
    for warning in engine.data_module.warnings():
        write(warning, "warning")
    slow = engine.ranks.device.type == "cpu" and not cpu_flags() & _FAST_BF16
    if engine.recipe.training.precision == "bf16" and slow:
        write("this processor has no bf16 unit: precision bf16 is slower than fp32 here", "warning")


class NoEvents:
    """An event sink that keeps nothing, for engines that are no part of a run."""

    def write(self, type: str, /, **fields: Any) -> None:
        """Drop the event."""
