"""Which checkpoints of a run are kept: the newest, and the best by a figure of evaluations. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

_SMALLER = ("loss", "perplexity", "error", "mae", "mse", "rmse", "wer", "cer")
_AUTO, _MIN, _MAX = "auto", "min", "max"


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What is kept: the newest `keep_last` checkpoints, None for all, and the best `keep_best` by `monitor`."""

    keep_last: int | None = None
    keep_best: int = 1
    monitor: str = "eval_loss"
    mode: str = _AUTO

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Retention:
        """What a recipe's section `checkpointing` says of it."""
        return cls(**{field.name: section[field.name] for field in fields(cls) if field.name in section})

    def superfluous(self, checkpoints: Sequence[tuple[str, Mapping[str, float]]]) -> list[str]:
        """Names that may go, of (name, metrics) in order of training.

        A checkpoint carries the figures of the newest evaluation before it; of several with the same
        figure the earliest, nearest to that evaluation, counts as the better one.
        """
        if self.keep_last is None:
            return []
        sign = 1.0 if smaller_is_better(self.monitor, self.mode) else -1.0
        valued = [(metric_value(metrics, self.monitor), name) for name, metrics in checkpoints]
        ranked = sorted((sign * value, name) for value, name in valued if value is not None and not math.isnan(value))
        best = {name for _, name in ranked[: self.keep_best]}
        return [name for name, _ in checkpoints[: -self.keep_last] if name not in best]


def metric_value(metrics: Mapping[str, float], name: str) -> float | None:
    """A figure by name; "val_NAME" and "eval_NAME" mean the same. None where it is not there."""
    prefix, _, rest = name.partition("_")
    other = {"val": f"eval_{rest}", "eval": f"val_{rest}"}.get(prefix, name)
    value = metrics.get(name, metrics.get(other))
    return None if value is None else float(value)


def smaller_is_better(name: str, mode: str) -> bool:
    """What `mode` says of a figure; "auto" is told from its name. Raises ValueError for another mode."""
    if mode not in (_AUTO, _MIN, _MAX):
        raise ValueError(f"mode is {mode!r}; it is one of {_AUTO}, {_MIN}, {_MAX}")
    if mode == _AUTO:
        return any(part in _SMALLER for part in name.lower().split("_"))
    return mode == _MIN
