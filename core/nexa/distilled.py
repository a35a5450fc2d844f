"""Distilled datasets in the artifact store: how one gets there, and which one a person means."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from nexa.artifacts import MANIFEST_NAME
from nexa.distiller import DATASET_INDEX
from nexa.errors import ArtifactExistsError, DataError, UserError
from nexa.files import read_json
from nexa.manifest import canonical_json
from nexa.prepared import cache_root
from nexa.settings import get_settings
from nexa.stores import LATEST, open_store
from nexa.uris import absolute_uri, is_uri

if TYPE_CHECKING:
    from nexa.artifacts import ArtifactStore, StoredArtifact
    from nexa.distiller import CaptureEstimate
    from nexa.recipe.schema import Recipe

KIND = "distilled-dataset"
FOLDER = "datasets/"
"""Start of the names of these artifacts."""
_STAGING = ".captures"
_LINEAGE = ("teacher", "tokenizer", "data", "record", "software", "distiller")
"""Entries of a dataset's index that say what it was made from."""
_HASH_LENGTH = 12
_KEY_LENGTH = 32
_LABEL = "capture"


def is_reference(value: str) -> bool:
    """Whether `distill.dataset` names an artifact: "latest", "datasets/…" or a URI; else it is a path."""
    return value == LATEST or value.startswith(FOLDER) or is_uri(value)


def find_dataset(reference: str | Path, store_uri: str | None = None) -> Path:
    """The folder of a dataset: of an artifact, or the path itself where it is one.

    A reference is an artifact's name, the start of one that fits a single artifact, its URI, or "latest". Nothing is
    hashed. Raises UserError where the store has no such dataset.
    """
    text = str(reference)
    if not is_reference(text) or Path(text).is_dir():
        return Path(reference)
    parts = urlsplit(text)
    if parts.scheme == "file" and (folder := Path(unquote(parts.path))).is_dir():
        return folder
    store = open_store(store_uri)
    known = stored_datasets(store)
    found = known[-1:] if text == LATEST else [a for a in known if text in (a.name, a.meta.uri)]
    found = found or [artifact for artifact in known if artifact.name.startswith(text)]
    if len(found) != 1:
        what = f"{len(found)} datasets whose names begin with" if found else "no distilled dataset"
        names = ", ".join(artifact.name for artifact in (found or known)[-5:])
        raise UserError(
            f"the artifact store holds {what} {text!r}" if text != LATEST else "the artifact store holds no dataset",
            hint=f"it has {names}" if names else "make one with: nexa distill capture RECIPE",
        )
    return store.fetch(found[0].name)


def stored_datasets(store: ArtifactStore) -> list[StoredArtifact]:
    """The distilled datasets of a store, the newest last."""
    found = [artifact for artifact in store.list(FOLDER.rstrip("/")) if artifact.meta.kind == KIND]
    return sorted(found, key=lambda artifact: (artifact.meta.created_at, artifact.name))


def pinned(recipe: Recipe, store_uri: str) -> Recipe:
    """The recipe with the folder of the dataset that it names in the store, so that a resumed run finds the same.

    Raises UserError as `find_dataset` does.
    """
    named = recipe.distill.dataset
    if named is None or recipe.distill.mode != "offline" or not is_reference(named):
        return recipe
    folder = str(find_dataset(named, store_uri))
    return recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"dataset": folder})})


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a capture goes: a folder, or the artifact store by way of a folder beside the artifacts.

    folder: what the distiller writes into, the same for every process and attempt. store: None where that is all.
    label, key: of the artifact, see `commit_dataset`.
    """

    folder: Path
    store: ArtifactStore | None = None
    label: str = ""
    key: str = ""

    @classmethod
    def of(
        cls, recipe: Recipe, estimate: CaptureEstimate, *, output: Path | None, store_uri: str | None, name: str
    ) -> Destination:
        """Where a recipe's capture goes: `output`, else the recipe's folder, else the store. name: of the recipe."""
        if output is not None:
            return cls(folder=output.absolute())
        named = recipe.distill.dataset
        if named is not None and not is_reference(named):
            return cls(folder=Path(named).parent if Path(named).name == DATASET_INDEX else Path(named))
        uri = absolute_uri(store_uri or recipe.artifacts.store_uri or get_settings().store_uri, Path.cwd())
        key = estimate.key or hashlib.sha256(canonical_json(recipe.document())).hexdigest()
        # On the store's own file system nothing need be copied.
        parts = urlsplit(uri)
        root = Path(unquote(parts.path)) if parts.scheme == "file" else cache_root()
        label = recipe.run.name or name
        return cls(folder=root / _STAGING / key[:_KEY_LENGTH], store=open_store(uri), label=label, key=key)

    def __str__(self) -> str:
        return str(self.folder) if self.store is None else "the artifact store"

    def earlier(self) -> str | None:
        """The name of a whole dataset that an earlier capture of the same key put into the store."""
        if self.store is None:
            return None
        for artifact in reversed(stored_datasets(self.store)):
            if artifact.meta.labels.get(_LABEL) == self.key and not self.store.verify(artifact.name):
                return artifact.name
        return None

    def finish(self, index: Path) -> tuple[Path, str | None]:
        """Where the index of a finished capture is from now on, and its artifact's name where it is one."""
        if self.store is None or not index.is_file():
            return index, None
        name = commit_dataset(self.store, index.parent, label=self.label, capture=self.key)
        return self.store.fetch(name) / DATASET_INDEX, name


def commit_dataset(store: ArtifactStore, folder: Path, *, label: str, capture: str = "") -> str:
    """Move a finished dataset into the store and return its name, `datasets/<label>/<hash of the index>`.

    folder: is gone afterwards; a dataset that is in the store already stays as it is. capture: key to find it by.
    Raises DataError where the folder holds no finished dataset, ArtifactError where it can't be stored.
    """
    index = read_json(folder / DATASET_INDEX)
    if index is None:
        raise DataError(f"{folder} has no {DATASET_INDEX}", hint="finish it with: nexa distill capture")
    name = f"{FOLDER}{label}/{hashlib.sha256(canonical_json(index)).hexdigest()[:_HASH_LENGTH]}"
    for lock in folder.glob(".lock-*"):
        lock.unlink()
    manifest = {
        "metrics": dict(index.get("quality") or {}),
        "lineage": {key: index[key] for key in _LINEAGE if key in index},
    }
    labels = {_LABEL: capture} if capture else {}
    try:
        store.commit(folder, name, kind=KIND, manifest=manifest, inputs=list(_inputs(index)), labels=labels)
    except ArtifactExistsError:
        shutil.rmtree(folder, ignore_errors=True)
    return name


def artifact_hash(folder: Path) -> str | None:
    """Hash of the artifact that lies in a folder; None for any other folder."""
    found = (read_json(folder / MANIFEST_NAME) or {}).get("hash")
    return str(found) if found else None


def _inputs(index: Mapping[str, Any]) -> list[str]:
    """What a dataset was made from: its documents, and its teacher where that is an artifact."""
    documents = (index.get("data") or {}).get("sha256")
    teacher = artifact_hash(Path(str((index.get("teacher") or {}).get("name", ""))))
    return [*([f"sha256:{documents}"] if documents else []), *([teacher] if teacher else [])]
