"""Paths and URIs as people write them, made absolute."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def is_uri(value: str) -> bool:
    """Whether `value` starts with a scheme ("s3:", "hf:", "pkg:", "file:"); `./a:b` is a path."""
    return _SCHEME.match(value) is not None


def absolute_path(value: str, base: Path) -> str:
    """A path counted from `base`, with `~` expanded; a URI stays."""
    if is_uri(value):
        return value
    return os.path.normpath(base / Path(value).expanduser())


def absolute_uri(value: str, base: Path) -> str:
    """A path as a `file://…` URI, counted from `base`; a URI stays."""
    return value if is_uri(value) else Path(absolute_path(value, base)).as_uri()


def local_folder(uri: str) -> Path | None:
    """Folder a `file://` URI names; None for any other scheme."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
