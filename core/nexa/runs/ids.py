"""Ids of runs and sweeps: made so that no two are equal, and found again by what a person types of them."""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from nexa.errors import RunError, UserError

RUNS_DIR_HINT = "choose another folder: set NEXA_RUNS_DIR, or runs_dir in nexa.toml"
LONGEST_NAME = 64
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
_SHOWN = 5


def make_folder(root: Path, name: str, inside: Sequence[str], *, what: str) -> Path:
    """Make `root/<id>` with the folders `inside`; the id is `YYYYMMDD-HHMMSS-<name>-<6 characters>` in UTC.

    The id sorts by time and is unique: its folder is created exclusively. what: "run" or "sweep", for
    messages. Raises UserError for a name that can't be part of an id or a folder that can't be written.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} can't be a {what}'s name",
            hint=f"use letters, digits, '.', '_' and '-', at most {LONGEST_NAME}, starting with a letter or digit",
        )
    while True:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        suffix = base64.b32encode(os.urandom(4)).decode("ascii")[:6].lower()
        path = root / f"{stamp}-{name}-{suffix}"
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            for folder in inside:
                (path / folder).mkdir()
        except FileExistsError:
            if root.is_dir():
                continue
            raise UserError(f"{root} is a file; {what}s need a folder", hint=RUNS_DIR_HINT) from None
        except OSError as error:
            raise unwritable(root, error, what=what) from error
        return path


def pick_id(reference: str, ids: Sequence[str], *, what: str, listing: str) -> str:
    """The one of `ids` (newest first, at least one) that a reference means.

    A reference is `latest`, an id, the unique start of one, or a name, whose newest is meant. listing: the
    command that lists all. Raises RunError, naming what there is, when none or several match.
    """
    if reference == "latest":
        return ids[0]
    if reference in ids:
        return reference
    matching = [known for known in ids if reference and known.startswith(reference)]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        named = next((known for known in ids if _name_in(known) == reference), None)
        if named is not None:
            return named
    shown = ", ".join((matching or ids)[:_SHOWN]) + (", …" if len(matching or ids) > _SHOWN else "")
    if matching:
        raise RunError(f"{reference!r} is the start of {len(matching)} {what}s: {shown}", hint="type more of the id")
    raise RunError(f"there is no {what} {reference!r}", hint=f"newest {what}s: {shown}; all: {listing}")


def unwritable(path: Path, error: OSError, *, what: str) -> UserError:
    """The error for a folder that can't be written."""
    return UserError(f"{what}s can't be written to {path}: {error.strerror or error}", hint=RUNS_DIR_HINT)


def _name_in(known: str) -> str:
    """The name in `YYYYMMDD-HHMMSS-<name>-<suffix>`."""
    return known[16:].rpartition("-")[0]
