"""Names and places: which names are allowed, and where in a store's folder an artifact lies."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nexa.artifacts import MANIFEST_NAME
from nexa.errors import ArtifactError, UserError

# Starts with a letter or digit, so that no name reaches the store's own folder or hides; has no
# character that a shell, a URL, a terminal or a case-mapping file system reads in its own way.
_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+=@-]{0,126}[A-Za-z0-9_+=@-])?")
_MAX_NAME = 240
CONTROL = ".nexa"


def parse_uri(uri: str) -> Path:
    """Return the folder that a `file:` URI, or a plain path, names. Raises UserError for anything else."""
    hint = "a store is written file:///absolute/folder, or as the path of a folder"
    if "\0" in unquote(uri) or not uri:
        raise UserError(f"{uri!r} names no artifact store", hint=hint)
    parts = urlsplit(uri)
    if not parts.scheme:
        return Path(os.path.abspath(uri))  # noqa: PTH100 - a link given by the user is kept
    path = Path(unquote(parts.path))
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise UserError(f"{uri!r} is not a folder on this machine", hint=hint)
    if not path.is_absolute():
        raise UserError(f"{uri!r} is not an absolute path", hint=hint)
    return Path(os.path.normpath(path))


def check_name(name: str) -> tuple[str, ...]:
    """Return the parts of an artifact's name. Raises UserError when it is not one."""
    parts = tuple(name.split("/"))
    if len(name) > _MAX_NAME or not all(_PART.fullmatch(part) for part in parts) or MANIFEST_NAME in parts:
        raise UserError(
            f"{name[:_MAX_NAME]!r} is not an artifact name",
            hint="a name is parts joined by /, each of letters, digits and . _ + = @ - that starts with a letter or "
            f"digit and does not end with a dot, at most {_MAX_NAME} characters together: checkpoints/my-run/step-100",
        )
    return parts


def locate(root: Path, name: str) -> Path:
    """Return where the artifact lies or would lie. Raises ArtifactError when a link stands in the way."""
    path = root
    for part in check_name(name):
        path = path / part
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            raise ArtifactError(f"{path.parent} is not a folder") from None
        if stat.S_ISLNK(mode):
            raise ArtifactError(f"{path} is a symbolic link; artifacts are not read or written through links")
    return path


def check_case(root: Path, name: str) -> None:
    """Raise ArtifactError when a part of `name` differs only in case from what is there.

    Such names are one and the same on a file system that ignores case.
    """
    folder = root
    for part in check_name(name):
        try:
            present = [entry.name for entry in os.scandir(folder)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for other in present:
            if other != part and other.casefold() == part.casefold():
                raise ArtifactError(f"{name} differs only in case from {(folder / other).relative_to(root)}")
        folder = folder / part


def enclosing_artifact(root: Path, name: str) -> str | None:
    """Return the artifact that `name` would lie inside, None when there is none."""
    parts = check_name(name)
    for count in range(1, len(parts)):
        outer = root.joinpath(*parts[:count])
        if os.path.lexists(outer / MANIFEST_NAME):
            return "/".join(parts[:count])
    return None
