"""What a login node needs before sbatch: it must see the run's folder, and have the code where that is packaged."""

from __future__ import annotations

from nexa.backend import LaunchSpec
from nexa.errors import UserError
from nexa.scheduler import Attempt
from nexa.worker.place import read_plan
from nexa_slurm.commands import SlurmError, run_at
from nexa_slurm.login import LoginNode
from nexa_slurm.package import CodePackage
from nexa_slurm.submission import code_of, options_of

# Prints what is not there; the folders are arguments, never part of the script.
_LOOK = '[ -d "$1" ] || echo run; [ -z "$2" ] || [ -d "$2" ] || echo code'
# The archive must be whole before its folder appears, under its name, at once.
_UNPACK = """\
set -e
mkdir -p "$1"
new=$(mktemp -d "$1/.nexa-XXXXXX")
trap 'rm -rf "$new"' EXIT
cat >"$new/archive"
printf '%s  %s\\n' "$3" "$new/archive" | sha256sum -c --status -
mkdir "$new/code"
tar -xf "$new/archive" -C "$new/code"
mv -T "$new/code" "$2" 2>"$new/words" || [ -d "$2" ] || { cat "$new/words" >&2; exit 1; }
"""
_SEND_SECONDS = 120.0


def prepare_login_node(at: LoginNode, attempt: Attempt) -> None:
    """Send the code where the login node lacks it; raises UserError where it does not see the run's folder.

    Raises as `nexa_slurm.commands.run_slurm` does, too.
    """
    from nexa.recipe.schema import Recipe

    plan = read_plan(attempt.run_dir, attempt.number)
    recipe, launch = Recipe.from_document(plan["recipe"]), LaunchSpec.from_document(plan["launch"])
    root = options_of(recipe).code_folder
    package = code_of(recipe, launch) if root is not None else None
    code = package.folder(root) if package is not None and root is not None else ""
    missing = run_at(at, at.argv(["/bin/sh", "-c", _LOOK, "sh", str(attempt.run_dir), code]), "sh").split()
    if "run" in missing:
        raise UserError(
            f"the run folder {attempt.run_dir} is not visible on {at.host}",
            hint="set NEXA_RUNS_DIR (runs_dir in nexa.toml) to a folder that this machine and the cluster both see",
        )
    if "code" in missing and package is not None and root is not None:
        _send(at, package, root)


def _send(at: LoginNode, package: CodePackage, root: str) -> None:
    words = ["/bin/sh", "-c", _UNPACK, "sh", root, package.folder(root), package.digest]
    try:
        run_at(at, at.argv(words), "tar", timeout=_SEND_SECONDS, data=package.archive)
    except SlurmError as error:
        raise UserError(
            f"the code can't be copied to {root} on {at.host}: {error.words}",
            hint="set slurm.code_folder to a folder of the cluster that you may write to",
        ) from error
