"""Observer that logs to trackio, which keeps runs in local files and shows them in a browser; needs `trackio`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexa.observer import Observer
from nexa_track.values import scalars

_FOLDER_VARIABLE = "TRACKIO_DIR"


class TrackioObserver(Observer):
    """Logs one trackio run per Nexa run; later attempts continue it under the same name."""

    def __init__(self) -> None:
        self._run: Any = None

    def open(self, run_id: str, run_dir: Path, recipe: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Start or continue the trackio run."""
        if options.get("folder"):
            # Trackio reads it once, when it is imported.
            os.environ[_FOLDER_VARIABLE] = str(Path(options["folder"]).expanduser().absolute())
        import trackio

        self._run = trackio.init(
            project=options.get("project") or "nexa",
            name=options.get("run") or run_id,
            space_id=options.get("space"),
            config=dict(recipe),
            resume="allow",
            embed=False,
            # Nexa measures the machine itself.
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def event(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of `metrics` and `eval` records, and `sample` texts."""
        assert self._run is not None, "open() comes first"
        if values := scalars(record):
            self._run.log(values, step=record["step"])
        elif record.get("type") == "sample":
            self._run.log({f"samples/{record['prompt'][:60]}": record["text"]}, step=record["step"])

    def close(self) -> None:
        """Write what is buffered."""
        if self._run is not None:
            self._run.finish()
            self._run = None
