"""FileStore: artifacts as read-only folders, committed all or nothing and verified by content.

How a commit survives anything: the staged folder is renamed into a private folder of the store (or
copied, from another file system), hashed and synced file by file, given its manifest, synced as a
folder, and only then renamed, exclusively, to its name; the name's folder is synced last. Readers
see the name or nothing, and what a killed commit leaves lies out of their sight.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nexa.artifacts import MANIFEST_NAME, ArtifactMeta, ArtifactStore, Damage, StoredArtifact
from nexa.errors import ArtifactError, ArtifactExistsError, UserError
from nexa.manifest import build_manifest, meta_of, render_manifest
from nexa_file import claims, collecting, disk, names, pins, placing, sharing, tree


class FileStore(ArtifactStore):
    """A store in a folder, on any file system, for any number of processes and machines at once."""

    def open(self, uri: str) -> None:
        """Use the folder that `uri`, a `file:` URI or a path, names. Creates nothing yet."""
        self._root = names.parse_uri(uri)
        self._control = self._root / names.CONTROL
        self._fresh: dict[str, tree.Signature] = {}

    def commit(
        self,
        staged: Path,
        name: str,
        *,
        kind: str,
        manifest: Mapping[str, Any],
        inputs: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> ArtifactMeta:
        """Make the staged folder an immutable artifact; see `ArtifactStore.commit`."""
        names.check_name(name)
        with _explained(f"can't commit {name}"):
            self._refuse_overlap(staged)
            staged_tree = placing.scan_staged(staged, name)
            damaged = self._refuse_taken(name)
            with claims.claim(self._control) as claim:
                placement = placing.place(staged, claim.content, staged_tree)
                try:
                    records = placing.settle(placement)
                    document = build_manifest(
                        records,
                        name=name,
                        kind=kind,
                        created_at=datetime.now(timezone.utc).isoformat(timespec="microseconds"),  # noqa: UP017 - workers run on 3.10
                        fields=manifest,
                        inputs=inputs,
                        labels=labels,
                    )
                    placing.seal(placement, render_manifest(document))
                    self._publish(claim, name, damaged)
                except BaseException:
                    claim.keep = True
                    placing.give_back(placement)
                    claim.keep = False
                    raise
                sharing.share(self._control, claim.folder, self._root / name, records)
            placing.consume(placement)
            self._fresh[name] = tree.signature(self._root / name)
        return meta_of(document, uri=self._uri(name))

    def list(self, prefix: str = "") -> Sequence[StoredArtifact]:
        """Return the artifacts under `prefix`; see `ArtifactStore.list`."""
        start = names.locate(self._root, prefix) if prefix else self._root
        pinned = pins.read(self._control)
        with _explained(f"can't list {self._root}"):
            return [self._describe(name, pinned) for name in _artifact_names(self._root, start)]

    def manifest(self, name: str) -> Mapping[str, Any]:
        """Return an artifact's manifest. Raises ArtifactError when there is none or it is damaged."""
        folder = self._existing(name)
        try:
            return tree.read_manifest(folder)
        except ArtifactError as error:
            raise ArtifactError(f"{name} is damaged: {error.message}") from error

    def verify(self, name: str) -> Sequence[Damage]:
        """Hash every file and return what differs from the manifest; empty when whole."""
        with _explained(f"can't verify {name}"):
            return tree.find_damage(self._existing(name), name)

    def fetch(self, name: str) -> Path:
        """Return the artifact's own folder: nothing is copied, and nothing in it may be changed."""
        self.manifest(name)
        return names.locate(self._root, name)

    def pin(self, name: str, *, pinned: bool = True) -> None:
        """Protect an artifact from `collect`, or stop protecting it."""
        self._existing(name)
        with _explained(f"can't pin {name}"), claims.store_lock(self._control):
            pins.write(self._control, name, pinned)

    def collect(self, names: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        """Remove those of `names` that nothing protects; see `ArtifactStore.collect`."""
        with _explained(f"can't collect garbage in {self._root}"):
            return collecting.collect(self, self._root, self._control, names, dry_run=dry_run)

    def is_whole(self, name: str) -> bool:
        """Whether an artifact verifies; one that this object committed and nobody touched since does."""
        fresh = self._fresh.get(name)
        return (fresh is not None and fresh == tree.signature(self._root / name)) or not self.verify(name)

    def _publish(self, claim: claims.Claim, name: str, damaged: os.stat_result | None) -> None:
        """Give complete and synced content its name, durably; or raise, leaving no trace."""
        with claims.store_lock(self._control):
            final = names.locate(self._root, name)
            outer = names.enclosing_artifact(self._root, name)
            if outer:
                raise ArtifactError(f"can't commit {name}: it would lie inside the artifact {outer}")
            names.check_case(self._root, name)
            if damaged:
                collecting.set_aside(self._control, final, name, damaged)
            collecting.prune(final, self._root)
            try:
                disk.make_folders(final.parent)
                disk.rename_new(claim.content, final)
            except FileExistsError:
                raise _exists(name) from None
            except BaseException:
                collecting.prune(final.parent, self._root)
                raise
            try:
                for folder in final.relative_to(self._root).parents:
                    disk.sync_folder(self._root / folder)
            except BaseException:
                disk.os.rename(final, claim.content)
                collecting.prune(final.parent, self._root)
                raise

    def _refuse_taken(self, name: str) -> os.stat_result | None:
        """Raise when `name` is an artifact that verifies, or a folder of artifacts.

        Returns the identity of the folder when it is damaged, None when the name is free.
        """
        final = names.locate(self._root, name)
        try:
            status = os.lstat(final)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISDIR(status.st_mode):
            raise _exists(name)
        held = list(_artifact_names(self._root, final))
        if held and held != [name]:
            raise ArtifactExistsError(f"{name} is a folder of artifacts, such as {held[0]}")
        contents = tree.scan(final)
        if not (contents.files or contents.oddities):
            return None
        if not tree.find_damage(final, name):
            raise _exists(name)
        return status

    def _refuse_overlap(self, staged: Path) -> None:
        """Raise UserError when the staged folder holds the store, or is part of an artifact in it."""
        source, root = staged.resolve(), self._root.resolve()
        stored = source.is_relative_to(root / names.CONTROL) or any(
            (folder / MANIFEST_NAME).exists() for folder in source.parents if folder.is_relative_to(root)
        )
        if root.is_relative_to(source) or stored:
            raise UserError(f"can't commit {staged}: it overlaps with what is in the store at {self._root}")

    def _existing(self, name: str) -> Path:
        """Return an artifact's folder. Raises ArtifactError when there is none."""
        folder = names.locate(self._root, name)
        if not folder.is_dir() or names.enclosing_artifact(self._root, name):
            raise ArtifactError(
                f"there is no artifact {name} in {self._root}", hint="see what there is with: nexa artifacts list"
            )
        return folder

    def _describe(self, name: str, pinned: frozenset[str]) -> StoredArtifact:
        """One entry of a listing, from its manifest alone."""
        try:
            meta = meta_of(tree.read_manifest(self._root / name), uri=self._uri(name))
            return StoredArtifact(name=name, meta=meta, pinned=name in pinned)
        except ArtifactError as error:
            unknown = ArtifactMeta(kind="unknown", uri=self._uri(name), hash="", bytes=0, created_at="")
            return StoredArtifact(name=name, meta=unknown, pinned=name in pinned, damage=error.message)

    def _uri(self, name: str) -> str:
        return (self._root / name).as_uri()


def _artifact_names(root: Path, start: Path) -> Iterator[str]:
    """Yield the names of the artifacts at and below a folder, in name order."""
    try:
        entries = {entry.name: entry for entry in os.scandir(start)}
    except (FileNotFoundError, NotADirectoryError):
        return
    if MANIFEST_NAME in entries:
        yield start.relative_to(root).as_posix()
        return
    for name in sorted(entries):
        if not name.startswith(".") and entries[name].is_dir(follow_symlinks=False):
            yield from _artifact_names(root, start / name)


def _exists(name: str) -> ArtifactExistsError:
    return ArtifactExistsError(
        f"the artifact {name} exists already", hint="artifacts never change; commit under another name"
    )


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn an error of the file system into one that says what it stopped."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        reason = f"{error.strerror or error}{place}"
        raise ArtifactError(f"{what}: {reason}") from error
