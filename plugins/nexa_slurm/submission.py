"""The sbatch command of an attempt: every request as an argument, the script the same for all. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.quantities import bytes_of
from nexa.scheduler import Attempt, Submission
from nexa.uris import is_uri
from nexa_slurm.login import LoginNode
from nexa_slurm.options import SlurmOptions

if TYPE_CHECKING:
    from nexa.backend import LaunchSpec, Resources
    from nexa.recipe.schema import Recipe
    from nexa_slurm.package import CodePackage

BATCH_SCRIPT = Path(__file__).with_name("batch.sh")


def token_of(attempt: Attempt) -> str:
    """What marks the job of an attempt in its comment: the same for every try to submit it, and for no other."""
    return f"nexa:{attempt.run_id}:{attempt.number}"


def run_id_of(comment: str) -> str | None:
    """Run that a job with this comment belongs to; None for a job of another kind."""
    parts = comment.split(":")
    return parts[1] if len(parts) == 3 and parts[0] == "nexa" else None


def options_of(recipe: Recipe) -> SlurmOptions:
    """The recipe's section `slurm`."""
    return SlurmOptions.model_validate(recipe.plugin_options.get("slurm", {}))


def plan_submission(recipe: Recipe, attempt: Attempt, launch: LaunchSpec, resources: Resources) -> Submission:
    """The sbatch command for an attempt and why it looks so."""
    argv = [
        "sbatch",
        "--parsable",
        f"--job-name={attempt.run_id}",
        f"--comment={token_of(attempt)}",
        *request_argv(recipe, resources),
        *_output(attempt),
        *batch_argv(recipe, launch, attempt.run_dir, attempt.number),
    ]
    return submission_of(recipe, launch, resources, argv)


def submission_of(recipe: Recipe, launch: LaunchSpec, resources: Resources, argv: Sequence[str]) -> Submission:
    """The submission that a command of sbatch is, where it is to run and with why."""
    options = options_of(recipe)
    at = login_node(options)
    notes = [*_notes(recipe, resources, options), *_login_notes(options, recipe, launch)]
    # A file in the current folder must not shadow a library's module in the job.
    command = argv if at is None else at.argv(argv, PYTHONSAFEPATH="1")
    return Submission(argv=command, script=_script(), notes=notes)


def login_node(options: SlurmOptions) -> LoginNode | None:
    """Where Slurm's commands run; None for this machine."""
    return LoginNode.from_document({"host": options.host, "ssh_config": options.ssh_config})


def code_of(recipe: Recipe, launch: LaunchSpec) -> CodePackage:
    """The code that the jobs of a recipe run. Raises UserError where it can't be packaged."""
    from nexa.plugins import get_host
    from nexa_slurm.package import package_code

    host = get_host()
    specs = [host.spec("observer", name) for name in recipe.tracking.observers]
    uri = recipe.artifacts.store_uri
    if uri is not None and is_uri(uri):
        specs.append(host.spec("artifact-store", uri.partition(":")[0]))
    task = host.task_of(recipe.backend, recipe.method)
    return package_code((launch.factory, *(spec.factory for spec in specs), *([task.factory] if task else [])))


def request_argv(recipe: Recipe, resources: Resources) -> list[str]:
    """The options of sbatch that a recipe asks for, the same for all its attempts."""
    options = options_of(recipe)
    return [*_resources(recipe, resources, options), *_restarts(recipe), *_site(options), *options.options]


def batch_argv(recipe: Recipe, launch: LaunchSpec, run_dir: Path, attempt: int) -> list[str]:
    """The job script with its arguments; run_dir: a run's folder, or an array's list of members."""
    options = options_of(recipe)
    code = None if options.code_folder is None else code_of(recipe, launch).folder(options.code_folder)
    return [
        str(BATCH_SCRIPT) if code is None else f"{code}/nexa_slurm/{BATCH_SCRIPT.name}",
        options.python or sys.executable,
        str(run_dir),
        str(attempt),
        *(("--code", code) if code is not None else ()),
        *(word for module in options.modules for word in ("--module", module)),
        *(word for line in options.pre_commands for word in ("--command", line)),
    ]


@cache
def _script() -> str:
    return BATCH_SCRIPT.read_text(encoding="utf-8")


def cpus_of(recipe: Recipe, resources: Resources) -> int | None:
    """Cores to ask for on each node; None leaves it to Slurm."""
    cluster = recipe.cluster
    if cluster.cpus_per_node is not None:
        return cluster.cpus_per_node
    return cluster.threads_per_process * resources.processes_per_node if cluster.threads_per_process else None


def _resources(recipe: Recipe, resources: Resources, options: SlurmOptions) -> Iterator[str]:
    cluster = recipe.cluster
    yield f"--nodes={resources.num_nodes}"
    yield "--ntasks-per-node=1"
    cpus = cpus_of(recipe, resources)
    if cpus is not None:
        yield f"--cpus-per-task={cpus}"
    if cluster.memory_per_node is not None:
        yield f"--mem={bytes_of(cluster.memory_per_node) >> 10}K"
    if options.gres is not None:
        yield f"--gres={options.gres}"
    elif resources.gpus_per_node:
        yield f"--gpus-per-node={resources.gpus_per_node}"
    if cluster.time_limit_seconds is not None:
        yield f"--time={_clock(cluster.time_limit_seconds)}"


def _clock(seconds: int) -> str:
    """[DAYS-]HOURS:MM:SS."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _restarts(recipe: Recipe) -> Iterator[str]:
    # B: only the batch script, hence the supervisor, which asks all workers to stop at the same step.
    yield f"--signal=B:USR1@{recipe.cluster.stop_lead_seconds}"
    yield "--requeue" if recipe.cluster.max_restarts else "--no-requeue"


def _site(options: SlurmOptions) -> Iterator[str]:
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        value = getattr(options, name)
        if value is not None:
            yield f"--{name}={value}"
    if options.exclusive:
        yield "--exclusive"
    if options.mail_user is not None:
        yield f"--mail-user={options.mail_user}"
    if options.mail_types:
        yield f"--mail-type={','.join(options.mail_types)}"


def _output(attempt: Attempt) -> Iterator[str]:
    # Slurm replaces %-patterns in the name of its log; %% stands for the character itself.
    folder = str(attempt.run_dir).replace("%", "%%")
    yield f"--output={folder}/logs/{attempt.number}-supervisor.log"
    yield "--open-mode=append"
    yield "--export=ALL"
    yield f"--chdir={attempt.run_dir}"


def _notes(recipe: Recipe, resources: Resources, options: SlurmOptions) -> Sequence[str]:
    cluster = recipe.cluster
    notes = ["the job's name and comment carry the run, so that a lost submission finds its job again"]
    if cluster.time_limit is None:
        notes.append("cluster.time_limit is unset: the partition's default holds")
    if cpus_of(recipe, resources) is None and not options.exclusive:
        notes.append("cluster.cpus_per_node is unset: Slurm gives its default, often one core a node")
    notes.append(
        f"SIGUSR1 comes {cluster.stop_lead_seconds} s before the time limit, or up to a minute earlier: "
        "the run then saves a checkpoint"
        + (
            f" and goes back into the queue, up to {cluster.max_restarts} times"
            if cluster.max_restarts
            else " and ends, since cluster.max_restarts is 0"
        )
    )
    if resources.num_nodes > 1:
        notes.append("srun starts one launcher a node; they meet at the allocation's first node")
    return notes


def _login_notes(options: SlurmOptions, recipe: Recipe, launch: LaunchSpec) -> Iterator[str]:
    if options.host is None:
        return
    yield (
        f"the command runs on {options.host}, whose host key must be known here; runs_dir must be a folder that "
        "this machine and the cluster both see, under the same path"
    )
    if options.code_folder is not None:
        package = code_of(recipe, launch)
        yield (
            f"this machine's code ({len(package.archive) >> 10} KiB, sha256 {package.digest[:16]}…) is copied to "
            f"{package.folder(options.code_folder)} unless it lies there"
        )
