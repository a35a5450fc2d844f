"""The contract of an artifact store: immutable, verifiable folders of files with a manifest.

An artifact is a folder with a `manifest.json`; its name is a relative POSIX path such as
"checkpoints/<run_id>/step-00000100". A folder without a manifest that verifies is not an artifact.
Standard library only: workers in other environments commit through a store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class ArtifactMeta:
    """What identifies an artifact.

    kind: "checkpoint", "dataset". uri: where it is, with scheme. hash: "sha256:<hex>" over its file
    list (path, size and SHA-256 of each file), independent of place and time. bytes: sum of file
    sizes. created_at: ISO 8601, UTC. inputs: hashes or URIs of what it was made from. labels: free.
    """

    kind: str
    uri: str
    hash: str
    bytes: int
    created_at: str
    inputs: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """An artifact as a store lists it.

    damage: why its manifest can't be read, None when it can; `meta` then holds only kind "unknown"
    and the URI. Files are not hashed by listing: `ArtifactStore.verify` does that.
    """

    name: str
    meta: ArtifactMeta
    pinned: bool = False
    damage: str | None = None


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One way in which an artifact differs from its manifest: which file, and how."""

    file: str
    message: str


class ArtifactStore(ABC):
    """A place for artifacts. `nexa.testing.artifacts.ArtifactStoreContract` tests one."""

    @abstractmethod
    def open(self, uri: str) -> None:
        """Use the store at `uri`; called once, before anything else. Creates nothing yet."""

    @abstractmethod
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
        """Make the staged folder an immutable artifact; `staged` is consumed.

        `manifest` holds the caller's fields (config, metrics, lineage); the store adds the file
        list with sizes and SHA-256 and the artifact's identity. All or nothing: when this returns,
        the artifact survives a power cut; when it raises, `staged` is left with its files; when it
        raises or is killed, nothing is visible.
        An artifact of that name that does not verify is set aside, not counted as existing.
        Raises ArtifactExistsError when the name exists, UserError for a name outside the store,
        ArtifactError when the files can't be stored.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Sequence[StoredArtifact]:
        """Return the artifacts whose names start with the path `prefix`, in name order.

        Reads manifests only; does not hash files. Artifacts with a damaged manifest are included,
        with `damage` set.
        """

    @abstractmethod
    def manifest(self, name: str) -> Mapping[str, Any]:
        """Return an artifact's manifest. Raises ArtifactError when there is no such artifact."""

    @abstractmethod
    def verify(self, name: str) -> Sequence[Damage]:
        """Hash every file and return what differs from the manifest; empty when whole."""

    @abstractmethod
    def fetch(self, name: str) -> Path:
        """Return a local folder with the artifact's files, read-only to the caller."""

    @abstractmethod
    def pin(self, name: str, *, pinned: bool = True) -> None:
        """Protect an artifact from `collect`, or stop protecting it."""

    @abstractmethod
    def collect(self, names: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        """Remove those of `names` that nothing protects, with litter of killed commits.

        Protected are pinned artifacts, the inputs of artifacts that stay, and the newest verified
        checkpoint of each folder of checkpoints. Returns the names removed (with `dry_run`: that
        would be).
        """
