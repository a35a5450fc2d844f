"""Observer that sends a run to Weights & Biases; needs the package `wandb`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from nexa.observer import Observer
from nexa_track.values import scalars


class WandbObserver(Observer):
    """Logs one W&B run per Nexa run; later attempts continue it under the same id."""

    def __init__(self) -> None:
        self._run: wandb.Run | None = None
        self._samples: list[tuple[int, str, str]] = []
        self._failed = False

    def open(self, run_id: str, run_dir: Path, recipe: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Start or continue the W&B run. Raises wandb.Error, such as when nobody is logged in."""
        self._run = wandb.init(
            project=options.get("project"),
            entity=options.get("entity"),
            name=options.get("run") or run_id,
            id=run_id,
            resume="allow",
            mode=options.get("mode"),
            tags=list(options.get("tags") or ()),
            dir=str(run_dir),
            config=dict(recipe),
            # Nexa's log files already hold what the workers print.
            settings=wandb.Settings(console="off", silent=True),
        )
        # The step is a value of its own, since W&B refuses to log a step twice and a resumed run does.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("train/*", step_metric="step")
        self._run.define_metric("eval/*", step_metric="step")

    def event(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of `metrics` and `eval` records; keep `sample` texts for the end."""
        assert self._run is not None, "open() comes first"
        if values := scalars(record):
            self._run.log({**values, "step": record["step"]})
        elif record.get("type") == "sample":
            self._samples.append((record["step"], record["prompt"], record["text"]))
        elif record.get("type") == "end":
            self._failed = record.get("state") == "failed"

    def close(self) -> None:
        """Log the samples as a table and finish the W&B run."""
        if self._run is None:
            return
        if self._samples:
            table = wandb.Table(columns=["step", "prompt", "text"], data=[list(row) for row in self._samples])
            self._run.log({"samples": table})
        self._run.finish(exit_code=int(self._failed))
        self._run = None
        # `finish` returns before W&B's own process has written its file; ending that process waits for it.
        if wandb.run is None:
            wandb.teardown()
