"""Checks of this machine that a launch makes before it writes anything: folders and free disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nexa import units
from nexa.errors import UserError
from nexa.uris import local_folder

if TYPE_CHECKING:
    from nexa.plan import Plan


def preflight(plan: Plan, *, runs: int = 1) -> None:
    """Raise UserError where so many runs of the plan or their checkpoints clearly can't be written."""
    places = [("the run folder", plan.runs_dir, "NEXA_RUNS_DIR")]
    if (store := local_folder(plan.store_uri)) is not None:
        places.append(("the artifact store", store, "artifacts.store_uri"))
    complaints = [complaint for place in places for complaint in _unwritable(*place)] or [*_too_full(plan, runs)]
    if complaints:
        messages, hints = zip(*complaints, strict=True)
        raise UserError("\n".join(messages), hint="; ".join(dict.fromkeys(hints)))


def _unwritable(what: str, folder: Path, setting: str) -> Iterator[tuple[str, str]]:
    existing = _nearest_existing(folder)
    if not existing.is_dir():
        yield f"can't make {what} in {folder}: {existing} is not a folder", f"set {setting} to a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield (
            f"can't make {what} in {folder}: no permission to write to {existing}",
            f"set {setting} to a folder you may write to",
        )
    elif os.statvfs(existing).f_flag & os.ST_RDONLY or shutil.disk_usage(existing).total == 0:
        yield f"can't make {what} in {folder}: {existing} is read-only", f"set {setting} to a folder on a disk"


def _too_full(plan: Plan, runs: int) -> Iterator[tuple[str, str]]:
    """Complaints where the file systems of checkpoints and of their staging hold less than the estimate."""
    one, all_kept = plan.estimate.checkpoint_bytes, plan.disk_bytes
    if one is None or all_kept is None:
        return
    all_kept *= runs
    staging = _nearest_existing(plan.runs_dir)
    store = local_folder(plan.store_uri)
    if store is None:
        needs = [(staging, one)]
    else:
        store = _nearest_existing(store)
        # Staged checkpoints are renamed into a store on the same file system, and copied into another.
        same = store.stat().st_dev == staging.stat().st_dev
        needs = [(store, all_kept)] if same else [(store, all_kept), (staging, one)]
    for folder, needed in needs:
        free = shutil.disk_usage(folder).free
        if free < needed:
            yield (
                f"not enough disk under {folder}: checkpoints need about {units.size(needed)} (estimate), "
                f"{units.size(free)} are free",
                "free some space, lower checkpointing.keep_last, raise training.save_every_steps, "
                "or set artifacts.store_uri to a larger disk",
            )


def _nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest parent that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
