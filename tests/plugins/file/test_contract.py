"""The file store passes the tests that every artifact store must pass."""

from __future__ import annotations

from nexa.testing.artifacts import ArtifactStoreContract


class TestFileStoreContract(ArtifactStoreContract):
    """`file:` stores."""

    plugin_name = "file"
