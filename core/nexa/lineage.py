"""Where a run comes from: code revisions, distribution versions and the data set it names."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nexa

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nexa.recipe.schema import Recipe

_GIT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class CodeRevision:
    """State of a git work tree: its folder, commit, and whether tracked files differ from the commit."""

    root: str
    revision: str
    dirty: bool

    def document(self) -> dict[str, Any]:
        """The revision as JSON values."""
        return {"root": self.root, "revision": self.revision, "dirty": self.dirty}


def code_revision(folder: Path) -> CodeRevision | None:
    """Return the state of the git work tree that holds `folder`.

    None where there is no git, no work tree, no commit yet, or no answer within ten seconds: lineage
    is recorded where it exists and never stops a run.
    """
    place = _git(folder, "rev-parse", "--show-toplevel", "HEAD")
    if place is None:
        return None
    # Untracked files don't count: run folders and artifacts may lie in the work tree.
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if status is None:
        return None
    root, _, revision = place.rpartition("\n")
    return CodeRevision(root=root, revision=revision, dirty=bool(status))


def _git(folder: Path, *arguments: str) -> str | None:
    """Standard output of a read-only git command in `folder`, None when it fails."""
    # fsmonitor is off because git runs the program it names, and `folder` may hold a stranger's clone.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        result = subprocess.run(
            command,
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def distribution_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed version of each distribution, in name order; None for one that is not installed."""
    return {name: _version(name) for name in sorted(set(names))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def collect_lineage(
    recipe: Recipe, *, recipe_folder: Path | None, distributions: Iterable[str], parent: str | None = None
) -> dict[str, Any]:
    """Return a run's lineage as JSON values.

    code: work tree of the recipe, else of the current folder; null outside git. nexa_code: work tree
    Nexa itself runs from; null for an installed one. plugins: version of each distribution that
    provides a plugin of this run. dataset: what the recipe names; the hash of the bytes really read is
    added by the worker. parent: id of the run this one continues, or null.
    """
    code = code_revision(recipe_folder) if recipe_folder is not None else None
    code = code or code_revision(Path.cwd())
    nexa_code = code_revision(Path(nexa.__file__).parent)
    return {
        "code": code.document() if code else None,
        "nexa_code": nexa_code.document() if nexa_code else None,
        "nexa_version": nexa.__version__,
        "plugins": distribution_versions(distributions),
        "dataset": {
            "uri": recipe.data.remote_uri,
            "version": recipe.data.dataset_version,
            "expected_hash": recipe.data.expected_dataset_hash,
        },
        "parent": parent,
    }
