"""`nexa export`: a checkpoint's model as a folder for other programs, proven before anyone can see it.

A backend writes into a hidden folder beside the destination; files are hashed and synced, the manifest comes last,
and only then the folder gets its name. What fails before leaves nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nexa.artifacts import MANIFEST_NAME, ArtifactMeta
from nexa.checkpoints import Checkpoint
from nexa.errors import ArtifactError, UserError
from nexa.files import sync
from nexa.manifest import FileRecord, build_manifest, meta_of, render_manifest

EXPORT = "export"
"""Capability of backends that export."""
KIND = "model"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was exported: where to, its manifest in short, and what the backend proved."""

    folder: Path
    meta: ArtifactMeta
    proof: Mapping[str, Any]


def export_checkpoint(checkpoint: Checkpoint, destination: Path, *, merge: bool) -> Exported:
    """Write a checkpoint's model into the new folder `destination`.

    merge: add an adapter's update to the weights of its base model. Raises UserError where the destination exists,
    the backend can't export or refuses the checkpoint, and ArtifactError where files can't be written.
    """
    from nexa.plugins import get_host

    host = get_host()
    if EXPORT not in host.spec("backend", checkpoint.backend).capabilities:
        able = [spec.name for spec in host.specs("backend") if EXPORT in spec.capabilities]
        raise UserError(
            f"{checkpoint.name} was made by backend {checkpoint.backend!r}, which exports nothing",
            hint=f"backends that do: {', '.join(able) or 'none is installed'}",
        )
    destination = destination.expanduser().absolute()
    if os.path.lexists(destination):
        raise UserError(f"{destination} exists already", hint="name a folder that does not exist yet")
    if not destination.parent.is_dir():
        raise UserError(f"the folder {destination.parent} does not exist", hint=f"type: mkdir -p {destination.parent}")
    backend = host.create("backend", checkpoint.backend)
    staged = _staging(destination)
    try:
        proof = backend.export(checkpoint.folder, staged, merge=merge)
        meta = _publish(staged, destination, checkpoint, proof)
    except OSError as error:
        raise ArtifactError(f"{destination} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Exported(folder=destination, meta=meta, proof=proof)


def _staging(destination: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent))
    except OSError as error:
        raise ArtifactError(f"{destination.parent} can't be written: {error.strerror or error}") from error


def _publish(staged: Path, destination: Path, checkpoint: Checkpoint, proof: Mapping[str, Any]) -> ArtifactMeta:
    files = {path.relative_to(staged).as_posix(): _sealed(path) for path in sorted(staged.rglob("*")) if path.is_file()}
    made_from = {"name": checkpoint.name, "hash": checkpoint.hash}
    document = build_manifest(
        files,
        name=destination.name,
        kind=KIND,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        fields={"backend": checkpoint.backend, "export": dict(proof), "lineage": {"checkpoint": made_from}},
        inputs=[checkpoint.hash] if checkpoint.hash else [],
    )
    manifest = staged / MANIFEST_NAME
    manifest.write_bytes(render_manifest(document))
    sync(manifest)
    sync(staged)
    staged.chmod(0o755)
    if os.path.lexists(destination):
        raise UserError(f"{destination} exists by now", hint="name a folder that does not exist yet")
    staged.rename(destination)
    sync(destination.parent)
    return meta_of(document, uri=destination.as_uri())


def _sealed(path: Path) -> FileRecord:
    """Size and hash of a file that is on the disk."""
    sync(path)
    with path.open("rb") as stream:
        return FileRecord(bytes=path.stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest())
