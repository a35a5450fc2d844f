"""What a manifest holds and how it is written, shared by every artifact store. Standard library only.

A manifest is one JSON object, written in exactly one way (sorted keys, two spaces, ASCII), so that
a changed byte anywhere in it is found without a second copy:

    schema           version of this layout
    name, kind, created_at, inputs, labels
    files            {path: {"bytes": size, "sha256": hex}}, paths relative and POSIX
    bytes            sum of the file sizes
    hash             "sha256:<hex>" over the file list; independent of place, time and order
    manifest_sha256  over everything else in the manifest
    …                the caller's own fields: config, metrics, lineage
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexa.artifacts import MANIFEST_NAME, ArtifactMeta
from nexa.errors import ArtifactError

SCHEMA = 1
RESERVED_FIELDS = frozenset(
    {"schema", "name", "kind", "created_at", "inputs", "labels", "files", "bytes", "hash", "manifest_sha256"}
)


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (lower-case hex) of one file of an artifact."""

    bytes: int
    sha256: str


def canonical_json(value: Any) -> bytes:
    """Render plain JSON values in the one form that digests are taken over.

    Raises ValueError for NaN or infinity, TypeError for values that JSON has no form for.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def artifact_hash(files: Mapping[str, FileRecord]) -> str:
    """Return "sha256:<hex>" over paths, sizes and contents; the order of `files` does not matter."""
    listing = [[path, record.bytes, record.sha256] for path, record in sorted(files.items())]
    return f"sha256:{hashlib.sha256(canonical_json(listing)).hexdigest()}"


def build_manifest(
    files: Mapping[str, FileRecord],
    *,
    name: str,
    kind: str,
    created_at: str,
    fields: Mapping[str, Any],
    inputs: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the manifest of an artifact with these files.

    `fields` are the caller's own; NaN and infinity in them become null, as in event records.
    Raises ArtifactError when a field has a reserved name or holds what JSON can't.
    """
    reserved = sorted(RESERVED_FIELDS & set(fields))
    if reserved:
        raise ArtifactError(
            f"can't commit {name}: its manifest has fields that the store writes itself: {', '.join(reserved)}"
        )
    document = {
        **fields,
        "schema": SCHEMA,
        "name": name,
        "kind": kind,
        "created_at": created_at,
        "inputs": list(inputs),
        "labels": dict(labels or {}),
        "files": {path: {"bytes": record.bytes, "sha256": record.sha256} for path, record in sorted(files.items())},
        "bytes": sum(record.bytes for record in files.values()),
        "hash": artifact_hash(files),
    }
    try:
        # Through text and back: what is digested is exactly what a reader will parse.
        document = dict(json.loads(canonical_json(_finite(document))))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"can't commit {name}: its manifest is not plain JSON: {error}") from error
    document["manifest_sha256"] = _own_digest(document)
    return document


def render_manifest(document: Mapping[str, Any]) -> bytes:
    """Return the only bytes that `parse_manifest` accepts for this manifest."""
    return (json.dumps(document, sort_keys=True, ensure_ascii=True, allow_nan=False, indent=2) + "\n").encode()


def parse_manifest(content: bytes) -> dict[str, Any]:
    """Return the manifest written as `content`.

    Raises ArtifactError, naming what is wrong, when a byte differs from what `render_manifest` wrote.
    """
    try:
        document: Any = json.loads(content)
        if not isinstance(document, dict) or render_manifest(document) != content:
            raise ArtifactError(f"{MANIFEST_NAME} has been changed: it is not in the form it was written in")
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{MANIFEST_NAME} is damaged: {error}") from error
    if document.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{MANIFEST_NAME} has schema {document.get('schema')!r}; this version of Nexa reads schema {SCHEMA}"
        )
    if document.get("manifest_sha256") != _own_digest(document):
        raise ArtifactError(f"{MANIFEST_NAME} has been changed: its contents do not match its own SHA-256")
    try:
        meta_of(document, uri="")
        listed = artifact_hash(file_records(document))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{MANIFEST_NAME} lacks what a manifest must have: {error!r}") from error
    if document["hash"] != listed:
        raise ArtifactError(f"{MANIFEST_NAME} has been changed: its hash does not match its file list")
    return dict(document)


def file_records(document: Mapping[str, Any]) -> dict[str, FileRecord]:
    """Return the file list of a parsed manifest."""
    return {path: FileRecord(entry["bytes"], entry["sha256"]) for path, entry in document["files"].items()}


def meta_of(document: Mapping[str, Any], *, uri: str) -> ArtifactMeta:
    """Return the identity that a parsed manifest gives the artifact at `uri`."""
    return ArtifactMeta(
        kind=document["kind"],
        uri=uri,
        hash=document["hash"],
        bytes=document["bytes"],
        created_at=document["created_at"],
        inputs=tuple(document["inputs"]),
        labels=dict(document["labels"]),
    )


def _own_digest(document: Mapping[str, Any]) -> str:
    """SHA-256 over every field but the digest itself."""
    rest = {key: value for key, value in document.items() if key != "manifest_sha256"}
    return hashlib.sha256(canonical_json(rest)).hexdigest()


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON has no form for, with None at every depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
