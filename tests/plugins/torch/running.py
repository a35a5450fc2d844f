"""Runs a recipe in this process with the real event writer, checkpoint committer and file store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexa.backend import RunResult
from nexa.events.writer import EventWriter
from nexa.worker.checkpoints import StoreCommitter
from nexa.worker.context import RunContext
from nexa.worker.retention import Retention
from nexa_file.store import FileStore
from nexa_torch.options import recipe_from_document
from nexa_torch.run import run_training

RUN_ID = "run"


@dataclass(frozen=True)
class Finished:
    """A run that ended: its result, its events, and the folder of its last checkpoint."""

    result: RunResult
    events: list[dict[str, Any]]
    checkpoint: Path | None

    def of(self, type: str) -> list[dict[str, Any]]:
        """Events of one type."""
        return [event for event in self.events if event["type"] == type]

    def series(self, key: str) -> dict[int, float]:
        """A metric by step."""
        return {event["step"]: event["values"][key] for event in self.of("metrics")}


class Run:
    """One run in `folder`, of one or several attempts, which a backend's function `train` makes."""

    def __init__(
        self,
        folder: Path,
        document: Mapping[str, Any],
        *,
        rank: int = 0,
        world_size: int = 1,
        train: Callable[[RunContext], RunResult] = run_training,
    ) -> None:
        self._train = train
        self.folder = folder
        self.recipe = recipe_from_document(dict(document))
        self.rank, self.world_size = rank, world_size
        self.store = FileStore()
        self.store.open((folder / "store").absolute().as_uri())
        self._attempt = 0
        self._checkpoint: Path | None = None

    def continue_from(self, checkpoint: Path, *, attempt: int) -> None:
        """Let the next attempt be number `attempt` and continue from a checkpoint of another process."""
        self._checkpoint, self._attempt = checkpoint, attempt - 1

    def attempt(self, *, stop: Callable[[], str | None] = lambda: None) -> Finished:
        """Train from where the last attempt ended."""
        self._attempt += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{self._attempt}-{self.rank}.jsonl"
        events = EventWriter(log)
        committer = StoreCommitter(
            self.store,
            run_id=RUN_ID,
            run_dir=self.folder,
            events=events,
            fields={"lineage": {}},
            labels={},
            retention=Retention.of(self.recipe.checkpointing.model_dump()),
        )
        result = self._train(
            RunContext(
                run_id=RUN_ID,
                run_dir=self.folder,
                attempt=self._attempt,
                recipe=self.recipe.document(),
                rank=self.rank,
                local_rank=self.rank,
                world_size=self.world_size,
                events=events,
                checkpoints=committer,
                stop_requested=stop,
                resume_from=self._checkpoint,
            )
        )
        events.close()
        if result.checkpoint is not None:
            self._checkpoint = self.store.fetch(result.checkpoint)
        return Finished(result, [json.loads(line) for line in log.read_text().splitlines()], self._checkpoint)


def chat_rows(folder: Path, count: int = 24) -> Path:
    """A JSONL file of short conversations of different lengths."""
    path = folder / "chat.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Count to {i % 7 + 1}."},
                {"role": "assistant", "content": " ".join(str(n + 1) for n in range(i % 7 + 1)) + "!" * (i % 5)},
            ]
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_recipe(rows: Path, /, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A two-layer model of bytes, fine-tuned on `rows`; `sections` are merged over it."""
    document: dict[str, Any] = {
        "method": "sft",
        "model": {
            "name": "llama",
            "tokenizer": "bytes",
            "d_model": 64,
            "n_layers": 2,
            "n_heads": 4,
            "n_kv_heads": 2,
            "max_seq_len": 128,
        },
        "data": {"remote_uri": str(rows)},
        "training": {"max_steps": 4, "microbatch_size_per_gpu": 2},
        "optimizer": {"lr": 1e-3},
    }
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values} if isinstance(values, Mapping) else values
    return document
