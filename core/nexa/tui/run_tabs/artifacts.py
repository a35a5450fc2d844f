"""The artifacts tab: the run's checkpoints, and the manifest of the one under the cursor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

from nexa import units
from nexa.errors import NexaError
from nexa.runs.actions import open_store
from nexa.runs.changes import flat
from nexa.runs.store import Run
from nexa.text import sanitize_line
from nexa.tui.themes import colour_of
from nexa.tui.widgets.table import Column, RowTable

_SHOWN_FIRST = ("metrics", "lineage")
_MOST_FIELDS = 200


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a run; text is safe to draw. facts: names and values of its manifest."""

    name: str
    bytes: int
    created_at: str
    remark: str
    facts: tuple[tuple[str, str], ...]


def read_checkpoints(run: Run) -> tuple[list[Checkpoint], str]:
    """The run's checkpoints, newest first, and why they can't be listed, "" when they can."""
    try:
        store = open_store(run)
        found = []
        for artifact in reversed(store.list(f"checkpoints/{run.run_id}")):
            remark = artifact.damage or ("pinned" if artifact.pinned else "")
            facts = () if artifact.damage else tuple(_facts(store.manifest(artifact.name), artifact.meta.hash))
            meta = artifact.meta
            created = sanitize_line(str(meta.created_at)).replace("T", " ")[:19]
            found.append(Checkpoint(sanitize_line(artifact.name), meta.bytes, created, sanitize_line(remark), facts))
        return found, ""
    except NexaError as error:
        return [], sanitize_line(error.message)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return [], sanitize_line(f"the run's plan is damaged: {error!r}")


def _facts(manifest: Mapping[str, Any], digest: str) -> Iterator[tuple[str, str]]:
    """What a manifest says, the most wanted first; its configuration and packages are told elsewhere."""
    yield "hash", sanitize_line(digest)
    files = manifest.get("files")
    if isinstance(files, list):
        yield "files", str(len(files))
    for section in _SHOWN_FIRST:
        values = manifest.get(section)
        if not isinstance(values, Mapping):
            continue
        leaves = flat(values)
        shown = {path: value for path, value in leaves.items() if not path.startswith("environment.")}
        for path, value in list(shown.items())[:_MOST_FIELDS]:
            yield f"{section}.{path}", sanitize_line(str(value))


class ArtifactsTab(Horizontal):
    """Checkpoints on the left, the manifest of one on the right."""

    DEFAULT_CSS = """
    ArtifactsTab > RowTable { width: 1fr; }
    ArtifactsTab > VerticalScroll { width: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    """

    def compose(self) -> ComposeResult:
        """The parts."""
        columns: list[Column[Checkpoint]] = [
            Column(name="checkpoint", width=0, text=lambda row: row.name.rpartition("/")[2], importance=9),
            Column(name="size", width=9, text=lambda row: units.size(row.bytes), right=True, importance=5),
            Column(name="committed (UTC)", width=19, text=lambda row: row.created_at, importance=3),
            Column(name="", width=8, text=lambda row: row.remark, colour=lambda row: "warning", importance=6),
        ]
        yield RowTable(columns, key=lambda row: row.name, empty="no checkpoints yet", id="checkpoints")
        with VerticalScroll():
            yield Static("")

    def show(self, checkpoints: Sequence[Checkpoint], trouble: str) -> None:
        """Show the checkpoints."""
        table = self.query_one(RowTable)
        table.set_empty(trouble or "no checkpoints yet")
        table.set_rows(checkpoints)
        self._show_manifest(table.current)

    @on(RowTable.Moved)
    def _moved(self, event: RowTable.Moved) -> None:
        event.stop()
        self._show_manifest(event.row)

    def _show_manifest(self, checkpoint: Checkpoint | None) -> None:
        text = Text()
        if checkpoint is not None:
            text.append(checkpoint.name + "\n", "bold")
            if checkpoint.remark:
                text.append(checkpoint.remark + "\n", colour_of(self.app, "warning"))
            for name, value in checkpoint.facts:
                text.append(f"{name}  ", colour_of(self.app, "text-muted")).append(value + "\n")
            text.append("\nv verifies every file against the manifest; R resumes from here\n", "dim")
        if text != getattr(self, "_text", None):
            self._text = text
            self.query_one(Static).update(text)

    @property
    def chosen(self) -> str | None:
        """Name of the checkpoint under the cursor."""
        current = self.query_one(RowTable).current
        return current.name if current is not None else None
