"""What happened between two metric records: tokens, time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nexa_torch.engine.meter import peak_memory_bytes

if TYPE_CHECKING:
    from nexa_torch.distributed.ranks import Ranks


@dataclass
class Meter:
    """Counts of this process since the last record; tokens_seen is over all ranks and attempts."""

    count: Callable[[Mapping[str, Any]], tuple[int, int]]
    ranks: Ranks
    tokens_seen: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

    def add(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Count the microbatches of a step."""
        for batch in batches:
            tokens, trained = self.count(batch)
            self.tokens += tokens
            self.trained_tokens += trained

    def start(self) -> None:
        """Leave out the time until now, which was spent on something else than steps."""
        self._since = time.perf_counter()

    def end_step(self) -> None:
        """Count a finished step and its time."""
        now = time.perf_counter()
        self.seconds += now - self._since
        self.steps += 1
        self._since = now

    def seen(self) -> int:
        """Tokens over all ranks and attempts until now; called on every rank alike."""
        return self.tokens_seen + self.ranks.sum_counts(self.tokens)[0]

    def record(self) -> dict[str, float]:
        """Speed and size for a metric record; begins a new one. Called on every rank alike."""
        tokens, trained = self.ranks.sum_counts(self.tokens, self.trained_tokens)
        seconds, steps = self.seconds, self.steps
        self.tokens_seen += tokens
        self.tokens = self.trained_tokens = self.steps = 0
        self.seconds = 0.0
        speeds = {"tokens": tokens, "trained_tokens": trained}
        return {
            **({f"{unit}_per_second": count / seconds for unit, count in speeds.items()} if seconds else {}),
            "tokens": self.tokens_seen,
            **({"step_seconds": seconds / steps} if steps else {}),
            "memory_bytes": peak_memory_bytes(self.ranks.device),
        }
