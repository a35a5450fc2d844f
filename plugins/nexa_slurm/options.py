"""Section `slurm` of a recipe, and `[defaults.slurm]` of the user's settings.

Every text reaches Slurm as one argument of a command, never as part of a script; what could not be a
name, a path or an option of Slurm is refused here, control characters above all.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from nexa.recipe.sections.base import PATTERNS, PositiveInt, Section

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,254}$"
_NAMES = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]*(,[A-Za-z0-9_][A-Za-z0-9_.@+-]*){0,63}$"
_CONSTRAINT = r"^[A-Za-z0-9_\[(][A-Za-z0-9_.,:;&|*()\[\]@=+-]{0,1023}$"
_GRES = r"^[A-Za-z0-9_][A-Za-z0-9_.,:/+-]{0,254}$"
_MAIL = r"^[A-Za-z0-9_.+-]{1,64}(@[A-Za-z0-9.-]{1,255})?$"
_MODULE = r"^[A-Za-z0-9_][A-Za-z0-9_./+-]{0,254}$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,254}$"
_HOST = r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,63}@)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}$"
# Where a length is bounded beside its pattern, the bound inside it would cost ten milliseconds on every start.
_FOLDER = r"^/[^\x00-\x1f\x7f-\x9f:]*$"
_WORD = r"^[^-]"
_MOUNT = r"^/[^\x00-\x1f\x7f-\x9f:,]*(:/[^\x00-\x1f\x7f-\x9f:,]*(:(ro|rw))?)?$"
_OPTION = r"^--[a-z][a-z0-9-]*(=[^\x00-\x1f\x7f-\x9f]*)?$"
PATTERNS.update(
    {
        _NAME: "a name of letters, digits and . _ - + @",
        _NAMES: "a name, or several with commas between them",
        _CONSTRAINT: "a constraint such as a100 or [a100|h100]",
        _GRES: "a resource such as gpu:a100:2",
        _MAIL: "a mail address",
        _MODULE: "a module such as cuda/12.4",
        _VARIABLE: "a variable's name",
        _HOST: "a login node such as login1 or me@login.example.org",
        _FOLDER: "a folder's absolute path, without colons",
        _WORD: "a path or a name, not beginning with a dash",
        _MOUNT: "a folder such as /data or /data:/inside:ro, without commas",
        _OPTION: "an option of sbatch such as --hint=nomultithread, without control characters",
    }
)

# What Nexa decides itself, and where a recipe says it instead.
RESERVED_OPTIONS = {
    "--nodes": "cluster.num_nodes",
    "--gpus-per-node": "cluster.gpus_per_node",
    "--gpus": "cluster.gpus_per_node",
    "--cpus-per-task": "cluster.cpus_per_node",
    "--mem": "cluster.memory_per_node",
    "--time": "cluster.time_limit",
    "--signal": "cluster.stop_lead_seconds",
    "--requeue": "cluster.max_restarts",
    "--no-requeue": "cluster.max_restarts=0",
    "--partition": "slurm.partition",
    "--account": "slurm.account",
    "--qos": "slurm.qos",
    "--constraint": "slurm.constraint",
    "--gres": "slurm.gres",
    "--reservation": "slurm.reservation",
    "--exclusive": "slurm.exclusive",
    "--mail-type": "slurm.mail_types",
    "--mail-user": "slurm.mail_user",
    "--export": "slurm.environment",
    "--job-name": "run.name",
    **dict.fromkeys(
        (
            "--ntasks", "--ntasks-per-node", "--comment", "--output", "--error", "--open-mode", "--parsable", "--array",
            "--wrap", "--chdir", "--export-file", "--input", "--wait", "--test-only", "--help", "--usage", "--version",
            "--kill-on-invalid-dep", "--quiet", "--uid", "--gid", "--get-user-env", "--no-kill", "--clusters",
        ),
        "",
    ),
}  # fmt: skip
_RESERVED_VARIABLES = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "NEXA_RUN_DIR", "NEXA_ATTEMPT")


def _without_control_characters(text: str) -> str:
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text):
        raise ValueError("must not hold control characters, such as a newline")
    return text


def _allowed_option(option: str) -> str:
    name = option.partition("=")[0]
    # sbatch takes any unique beginning of an option for the whole.
    taken = next((own for own in RESERVED_OPTIONS if own == name or own.startswith(name)), None)
    if taken is not None:
        key = RESERVED_OPTIONS[taken]
        raise ValueError(f"{name} is decided by Nexa" + (f"; set {key}" if key else ""))
    return option


Line = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_without_control_characters)]
Value = Annotated[str, AfterValidator(_without_control_characters)]
# A word that begins with a dash would be an option of the command it is given to.
Word = Annotated[str, Field(min_length=1, max_length=4096, pattern=_WORD), AfterValidator(_without_control_characters)]
Mount = Annotated[str, Field(pattern=_MOUNT)]
Variable = Annotated[str, Field(pattern=_VARIABLE)]
Name = Annotated[str, Field(pattern=_NAME)]
Names = Annotated[str, Field(pattern=_NAMES)]
Option = Annotated[str, Field(pattern=_OPTION, max_length=1024)]


class ContainerOptions(Section):
    """Container that the workers run in; the supervisor stays outside."""

    runtime: Literal["apptainer", "pyxis"] = "apptainer"
    """apptainer starts one on each node; pyxis leaves it to the Slurm plugin of that name (srun --container-image)."""
    image: Word
    """Image file, or a name that the runtime can fetch."""
    mounts: list[Mount] = []
    """Folders seen inside, as SOURCE or SOURCE:TARGET[:ro|rw], absolute; the run folder and a local artifact store
    always are."""
    python: Word = "python3"
    """Interpreter inside the container; it needs nexa-train and the backend's libraries."""
    options: list[Option] = []
    """Further options of `apptainer exec`. Only with apptainer."""

    @model_validator(mode="after")
    def _options_have_a_command(self) -> Self:
        if self.runtime == "pyxis" and self.options:
            raise ValueError("options are those of `apptainer exec`; pyxis has none")
        return self


class SlurmOptions(Section):
    """Section `slurm`."""

    host: Annotated[str, Field(pattern=_HOST)] | None = None
    """Login node that Slurm's commands run on, through SSH: [user@]host, or a Host of ~/.ssh/config. Its host key must
    be known here, and a key must log in. Default: this machine has Slurm's commands."""
    ssh_config: Line | None = None
    """Configuration of ssh for `host`, in place of the user's own and the system's."""
    code_folder: Annotated[str, Field(pattern=_FOLDER, max_length=1001)] | None = None
    """Folder of the cluster that this machine's Nexa and plugins are copied to, once for each version of them.
    Default: the cluster sees them where they are. Only with `host`."""
    python: Word | None = None
    """Interpreter on the cluster's nodes. Default: the one that launches, by its path."""
    node_start_seconds: PositiveInt = 180
    """Seconds within which every node of a job must have shown that it starts; else the run fails and names those that
    did not. Pyxis fetches the image within them."""
    partition: Names | None = None
    """Partition, or several with commas between them. Default: the cluster's own."""
    account: Name | None = None
    """Account the time is charged to. Default: the user's own."""
    qos: Name | None = None
    """Quality of service. Default: the account's own."""
    constraint: Annotated[str, Field(pattern=_CONSTRAINT)] | None = None
    """Features that nodes must have, such as a100 or [a100|h100]."""
    gres: Annotated[str, Field(pattern=_GRES)] | None = None
    """Generic resources of each node, such as gpu:a100:2; takes the place of cluster.gpus_per_node's request."""
    reservation: Name | None = None
    """Reservation to run in."""
    exclusive: bool = False
    """Share the nodes with no other job."""
    mail_user: Annotated[str, Field(pattern=_MAIL)] | None = None
    """Who gets Slurm's mails. Default: the submitting user."""
    mail_types: list[Literal["BEGIN", "END", "FAIL", "REQUEUE", "TIME_LIMIT", "TIME_LIMIT_80", "ALL"]] = []
    """When Slurm sends mails."""
    modules: list[Annotated[str, Field(pattern=_MODULE)]] = []
    """Environment modules loaded before anything else, on the first node, whose environment all nodes get."""
    environment: dict[
        Annotated[str, Field(pattern=_VARIABLE)], Annotated[str, AfterValidator(_without_control_characters)]
    ] = {}
    """Variables of the workers; not for secrets, since plans are printed."""
    pre_commands: list[Line] = []
    """Shell commands run before the workers start, one a line, in the job's own shell; they can set its environment."""
    container: ContainerOptions | None = None
    """Container for the workers. Default: none."""
    options: list[Annotated[Option, AfterValidator(_allowed_option)]] = []
    """Further options of sbatch, each as --name or --name=value; those that Nexa decides itself are refused."""

    @model_validator(mode="after")
    def _ssh_has_a_host(self) -> Self:
        given = [name for name in ("ssh_config", "code_folder") if getattr(self, name) is not None]
        if given and self.host is None:
            raise ValueError(f"{' and '.join(given)} only with host")
        return self

    @model_validator(mode="after")
    def _no_reserved_variables(self) -> Self:
        taken = [name for name in self.environment if name.startswith(_RESERVED_VARIABLES)]
        if taken:
            raise ValueError(f"environment: {', '.join(taken)}: Slurm and Nexa set these themselves")
        return self
