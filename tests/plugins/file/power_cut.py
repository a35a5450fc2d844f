"""A model of a disk that forgets: what may be left of recorded file operations after a power cut.

Every change is recorded as the smallest parts that a disk may keep or lose on its own: bytes written
to a file, and entries set or removed in a folder. A part must survive once its file or folder was
synced after it; until then it may survive or not, whatever became of earlier and later parts. That
is weaker than any real file system, so what holds here holds on all of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .interposer import Interposer


@dataclass
class Node:
    """A file (with `parts` of content) or a folder, as the recorder sees it now."""

    is_folder: bool
    entries: dict[str, Node] = field(default_factory=dict)


@dataclass
class Change:
    """One part that a disk may keep or lose; kept for certain by power cuts at or after `synced_at`."""

    node: Node
    made_at: int
    name: str = ""
    child: Node | None = None
    offset: int = 0
    content: bytes = b""
    synced_at: int | None = None


class Recorder(Interposer):
    """Carries out every call and records its changes below `root`, which starts empty."""

    def __init__(self, monkeypatch: Any, root: Path) -> None:
        self.root = root
        self.top = Node(is_folder=True)
        self.changes: list[Change] = []
        self.clock = 0
        self.removal_begins = 0
        self.acknowledged: list[tuple[int, str]] = []
        self._open: dict[int, tuple[Node, int]] = {}
        super().__init__(monkeypatch)

    def around(
        self, number: int, name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Carry out the call, then record it; one at a time, so that the record has an order."""
        with self._lock:
            result = real(*args, **kwargs)
            self.clock += 1
            recorder = getattr(self, f"_record_{name}", None)
            if recorder:
                recorder(result, *args)
            return result

    def acknowledge(self, name: str) -> None:
        """Note that a commit has returned: from now on the artifact must survive."""
        self.acknowledged.append((self.clock, name))

    def _place(self, path: str | os.PathLike[str]) -> tuple[Node, str]:
        """The folder node that a path's last part is an entry of, and that part."""
        *parents, name = Path(path).relative_to(self.root).parts
        node = self.top
        for part in parents:
            node = node.entries[part]
        return node, name

    def _node(self, path: str | os.PathLike[str]) -> Node:
        if Path(path) == self.root:
            return self.top
        folder, name = self._place(path)
        return folder.entries[name]

    def _set(self, path: str | os.PathLike[str], child: Node | None) -> None:
        folder, name = self._place(path)
        self.changes.append(Change(folder, self.clock, name=name, child=child))
        if child is None:
            del folder.entries[name]
        else:
            folder.entries[name] = child

    def _record_open(self, descriptor: int, path: Any, flags: int, mode: int = 0o777) -> None:
        if flags & os.O_CREAT:
            self._set(path, Node(is_folder=False))
        self._open[descriptor] = (self._node(path), 0)

    def _record_write(self, size: int, descriptor: int, content: Any) -> None:
        node, offset = self._open[descriptor]
        self.changes.append(Change(node, self.clock, offset=offset, content=bytes(content[:size])))
        self._open[descriptor] = (node, offset + size)

    def _record_fsync(self, result: None, descriptor: int) -> None:
        for change in self.changes:
            if change.node is self._open[descriptor][0] and change.synced_at is None:
                change.synced_at = self.clock

    def _record_mkdir(self, result: None, path: Any, mode: int = 0o777) -> None:
        self._set(path, Node(is_folder=True))

    def _record_rename(self, result: None, source: Any, target: Any) -> None:
        node = self._node(source)
        self._set(target, node)
        self._set(source, None)

    _record_renameat2 = _record_rename

    def _record_link(self, result: None, source: Any, target: Any) -> None:
        self._set(target, self._node(source))

    def _record_unlink(self, result: None, path: Any) -> None:
        self._set(path, None)

    _record_rmdir = _record_unlink


def after_power_cut(recorder: Recorder, when: int, keep: float, generator: random.Random, target: Path) -> None:
    """Write to `target` what a power cut after call `when` may leave.

    keep: the chance with which each part that was not synced survives.
    """
    entries: dict[int, dict[str, Node]] = {}
    contents: dict[int, bytearray] = {}
    for change in recorder.changes:
        if change.made_at > when:
            break
        is_synced = change.synced_at is not None and change.synced_at <= when
        if not is_synced and generator.random() >= keep:
            continue
        if not change.node.is_folder:
            content = contents.setdefault(id(change.node), bytearray())
            content.extend(bytes(max(0, change.offset + len(change.content) - len(content))))
            content[change.offset : change.offset + len(change.content)] = change.content
        elif change.child is None:
            entries.get(id(change.node), {}).pop(change.name, None)
        else:
            entries.setdefault(id(change.node), {})[change.name] = change.child

    pending = [(recorder.top, target)]
    while pending:
        node, path = pending.pop()
        if node.is_folder:
            path.mkdir()
            pending += [(child, path / name) for name, child in entries.get(id(node), {}).items()]
        else:
            path.write_bytes(contents.get(id(node), b""))
