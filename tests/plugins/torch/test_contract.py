"""The torch backend keeps the public contract of a training backend, in real worker processes."""

from __future__ import annotations

from nexa.testing.backend import BackendContract


class TestTorchBackend(BackendContract):
    """Runs every contract test on the backend `torch`."""

    plugin_name = "torch"
