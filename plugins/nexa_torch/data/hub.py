"""Files of hub models: fetched by the hub's own client, with one clear error where that can't work."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from nexa.errors import UserError

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def require_reachable(name: str) -> None:
    """Raise UserError where hub model `name` is not in the local hub cache and the hub can't be found.

    The hub's client would retry for a minute first, and name a host instead of what to do.
    """
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    if cached.is_dir() or any(os.environ.get(proxy) for proxy in _PROXIES):
        return
    host = urlsplit(constants.ENDPOINT).hostname or ""
    if constants.is_offline_mode():
        reason = "HF_HUB_OFFLINE is set"
    else:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            reason = f"{host} can't be reached from here"
        else:
            return
    raise UserError(f"hub model {name!r} is not in the local cache, and {reason}", hint=download_hint(name))


def download_hint(name: str) -> str:
    """What to type where hub model `name` can't be fetched from this machine."""
    return f"where there is internet access: hf download {name} --local-dir FOLDER; then name that FOLDER"
