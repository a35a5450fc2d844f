"""Registers the folder store with Nexa."""

from __future__ import annotations

from nexa.hookspecs import hookimpl
from nexa.specs import ArtifactStoreSpec


@hookimpl
def nexa_register_artifact_stores() -> list[ArtifactStoreSpec]:
    """Return the store for `file:` URIs."""
    return [
        ArtifactStoreSpec(
            name="file",
            summary="Artifacts in a folder, verified by content",
            factory="nexa_file.store:FileStore",
        )
    ]
