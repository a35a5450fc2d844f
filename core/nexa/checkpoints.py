"""Which checkpoint a person means, and which backend can talk to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexa.artifacts import MANIFEST_NAME
from nexa.backend import ChatSession
from nexa.errors import ArtifactError, UserError
from nexa.generator import TextGenerator

CHAT, SERVE = "chat", "serve"
_DEFAULT_BACKEND = "torch"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint's folder. name: as a person would call it. backend: the plugin that made it.

    hash: of its files, empty where no manifest tells.
    """

    name: str
    folder: Path
    backend: str
    method: str | None = None
    hash: str = ""


def find_checkpoint(reference: str, *, store_uri: str | None, warn: Callable[[str], None]) -> Checkpoint:
    """Find a checkpoint by folder, artifact name, run id, start of a run id, or `latest`.

    One from a store is verified first; `warn` is told of damaged ones passed over. Raises UserError
    when nothing has that name, ArtifactError when nothing found is whole.
    """
    from nexa.stores import find_verified, open_store

    folder = Path(reference).expanduser()
    if folder.is_dir():
        return _described(str(folder), folder.absolute(), _folder_manifest(folder))
    store = open_store(store_uri)
    artifact = find_verified(store, reference, warn=warn)
    return _described(artifact.name, store.fetch(artifact.name), store.manifest(artifact.name))


def find_model(reference: str, *, store_uri: str | None, warn: Callable[[str], None]) -> Checkpoint:
    """Find what a person wants served: a checkpoint as `find_checkpoint` finds it, a GGUF file or `pkg:PACKAGE/FILE`.

    Raises as `find_checkpoint` does.
    """
    if reference.startswith("pkg:"):
        return Checkpoint(name=reference, folder=Path(reference), backend=_DEFAULT_BACKEND)
    file = Path(reference).expanduser()
    if file.suffix.lower() == ".gguf" and file.is_file():
        return Checkpoint(name=file.stem, folder=file.absolute(), backend=_DEFAULT_BACKEND)
    return find_checkpoint(reference, store_uri=store_uri, warn=warn)


def open_chat(checkpoint: Checkpoint) -> ChatSession:
    """Load a checkpoint with its backend. Raises UserError when that backend offers no chat."""
    session: ChatSession = _able(checkpoint, CHAT, "talk").open_chat(checkpoint.folder)
    return session


def open_generator(checkpoint: Checkpoint) -> TextGenerator:
    """Load a checkpoint with its backend, to be served. Raises UserError when that backend does not serve."""
    generator: TextGenerator = _able(checkpoint, SERVE, "be served").open_generator(checkpoint.folder)
    return generator


def _able(checkpoint: Checkpoint, capability: str, what: str) -> Any:
    """The backend of a checkpoint, where it can do this."""
    from nexa.plugins import get_host

    host = get_host()
    if capability not in host.spec("backend", checkpoint.backend).capabilities:
        able = [spec.name for spec in host.specs("backend") if capability in spec.capabilities]
        raise UserError(
            f"{checkpoint.name} was made by backend {checkpoint.backend!r}, which can't {what}",
            hint=f"backends that can: {', '.join(able) or 'none is installed'}",
        )
    return host.create("backend", checkpoint.backend)


def _folder_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of a plain folder; empty when it has none, as a model saved without Nexa."""
    file = folder / MANIFEST_NAME
    if not file.is_file():
        return {}
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} can't be read: {error}") from error
    return manifest if isinstance(manifest, dict) else {}


def _described(name: str, folder: Path, manifest: Mapping[str, Any]) -> Checkpoint:
    config = manifest.get("config") or {}
    backend = manifest.get("backend") or config.get("backend") or _DEFAULT_BACKEND
    return Checkpoint(
        name=name,
        folder=folder,
        backend=str(backend),
        method=config.get("method"),
        hash=str(manifest.get("hash") or ""),
    )
