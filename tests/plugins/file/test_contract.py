"""The file store passes the tests that every artifact store must pass."""

from __future__ import annotations

import subprocess
import sys

from nexa.testing.artifacts import ArtifactStoreContract


class TestFileStoreContract(ArtifactStoreContract):
    """`file:` stores."""

    plugin_name = "file"


def test_the_store_needs_only_the_standard_library() -> None:
    """A worker in any environment can commit: nothing else is imported."""
    code = (
        "import sys; before = set(sys.modules); import nexa_file.store; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) == {"nexa", "nexa_file"}
