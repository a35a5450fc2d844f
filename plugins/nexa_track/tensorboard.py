"""Observer that writes TensorBoard event files; needs the package `tensorboard`, not torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from nexa.observer import Observer
from nexa_track.values import scalars

FLUSH_SECONDS = 10


class TensorBoardObserver(Observer):
    """Writes one event file per attempt; a resumed attempt hides the steps that it trains again."""

    def __init__(self) -> None:
        self._writer: EventFileWriter | None = None
        self._session_started = False

    def open(self, run_id: str, run_dir: Path, recipe: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Create the event file and record the recipe as text. Raises OSError."""
        folder = Path(options.get("log_dir") or run_dir / "tensorboard")
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder), flush_secs=FLUSH_SECONDS)
        document = json.dumps(recipe, indent=2, sort_keys=True)
        self._add(0, None, [_text("recipe", f"run `{run_id}`\n\n```json\n{document}\n```")])

    def event(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of `metrics` and `eval` records, and `sample` texts."""
        if values := scalars(record):
            summaries = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            self._add(record["step"], record["ts"], summaries)
        elif record.get("type") == "sample":
            text = f"**{record['prompt']}**\n\n{record['text']}"
            self._add(record["step"], record["ts"], [_text("samples", text)])

    def close(self) -> None:
        """Write what is buffered and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, step: int, time: float | None, summaries: list[Summary.Value]) -> None:
        assert self._writer is not None, "open() comes first"
        if time is not None and not self._session_started:
            # TensorBoard drops points of earlier event files from the first step of a new session on.
            self._session_started = True
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time, step=step, session_log=start))
        event = Event(step=step, summary=Summary(value=summaries))
        if time is not None:
            event.wall_time = time
        self._writer.add_event(event)


def _text(tag: str, text: str) -> Summary.Value:
    metadata = create_summary_metadata(display_name=tag, description="")
    return Summary.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto([text.encode()]))
