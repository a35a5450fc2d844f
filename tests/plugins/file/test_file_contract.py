"""The folder store keeps the contract of an artifact store."""

from __future__ import annotations

from nexa.testing.artifacts import ArtifactStoreContract


class TestFileStore(ArtifactStoreContract):
    plugin_name = "file"
