"""What every peer's script shares: reading the job, and timing each step inside the peer's process.

Runs in the peer's own environment, so it imports nothing of Nexa.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


def read_job() -> dict[str, Any]:
    """The job that the command line names, its choice of the fp32 product's library already in force."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if job["onednn"]:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    return job


class StepClock(TrainerCallback):
    """Writes real tokens, those that carry loss, seconds and processor seconds of each step to the job's result file.

    A step lasts from the end of the one before, so loading its batch and logging count. Tokens are counted
    where the model receives them: the job's padding token stands in no document.
    """

    def __init__(self, job: dict[str, Any], distribution: str) -> None:
        self._job = job
        self._distribution = distribution
        self._tokens = self._trained_tokens = 0
        self._steps: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to count."""
        kwargs["model"].register_forward_pre_hook(self._count, with_kwargs=True)
        self._last = (time.perf_counter(), time.process_time())

    def _count(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._tokens += int((kwargs["input_ids"] != self._job["pad_token"]).sum())
        self._trained_tokens += int((kwargs["labels"][:, 1:] >= 0).sum())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the step."""
        now = (time.perf_counter(), time.process_time())
        seconds, processor_seconds = (end - begin for end, begin in zip(now, self._last, strict=True))
        counts = {"tokens": self._tokens, "trained_tokens": self._trained_tokens}
        self._steps.append({**counts, "seconds": seconds, "processor_seconds": processor_seconds})
        self._last = now
        self._tokens = self._trained_tokens = 0

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what was measured, and what it was measured on, since peers choose much by themselves."""
        model = kwargs["model"]
        result = {
            "versions": {name: version(name) for name in (self._distribution, "transformers", "torch")},
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dtypes": sorted({str(parameter.dtype) for parameter in model.parameters()}),
            "attention": model.config._attn_implementation,
            "checkpointing": bool(getattr(model, "is_gradient_checkpointing", False)),
            "threads": torch.get_num_threads(),
            "steps": self._steps,
        }
        Path(self._job["result"]).write_text(json.dumps(result), encoding="utf-8")
