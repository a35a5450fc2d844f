"""The contract of a training backend: check a recipe, answer for its settings, plan, preview, run.

`check`, `settings`, `plan` and `estimate` run on the launching machine, which may be a login node
without torch: they import nothing heavy. `preview` loads tokenizer and data. `run` is called in a
worker process, possibly in another environment, where only the standard-library part of Nexa is
promised; so this module imports nothing else either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nexa.compat import StrEnum
from nexa.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from nexa.errors import Problem
    from nexa.generator import TextGenerator
    from nexa.recipe.schema import Recipe
    from nexa.worker.context import RunContext
    from nexa.worker.place import LauncherRanks


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run asks of its scheduler.

    processes_per_node is the number of worker processes (ranks) on each node: one per GPU, or the
    recipe's own number on CPU.
    """

    num_nodes: int
    gpus_per_node: int
    processes_per_node: int

    @property
    def world_size(self) -> int:
        """Number of worker processes over all nodes."""
        return self.num_nodes * self.processes_per_node


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """The container that one node's workers run in.

    runtime: "docker", "podman" or "apptainer". image: as that runtime names it. mounts: SOURCE:TARGET:MODE,
    MODE ro or rw, beside the run folder, which is always writable at its own path. gpus: how many are passed
    in; 0 for none. shm_bytes: size of its shared memory. options: further ones of the runtime's command.
    """

    runtime: str
    image: str
    mounts: Sequence[str] = ()
    gpus: int = 0
    shm_bytes: int = 0
    options: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """How one node's workers are started.

    A backend names its own interpreter; the plan puts another in its place where the recipe's section
    `environment` says so, and fills in the fields below `env`.

    python: interpreter of the environment the worker runs in.
    factory: "module:attribute" of the backend object in that environment.
    processes_per_node: above 1, `torch.distributed.run` starts and supervises the ranks.
    env: variables added to the worker's environment; no secrets, since plans are printed.
    code: folder with the worker's part of Nexa and of the plugins, put on the interpreter's path; None where
    they are installed there. probes: modules that must be importable there. environment: what is known of it
    ("kind", "name", "digest", "python"), for the record. container: None where there is none.
    """

    python: str
    factory: str
    processes_per_node: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None
    probes: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    container: ContainerSpec | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> LaunchSpec:
        """Read the section `launch` of a plan."""
        container = document.get("container")
        return cls(**{**document, "container": ContainerSpec(**container) if container else None})


class Answer(StrEnum):
    """What a backend does with one recipe field."""

    HONOURED = "honoured"
    TRANSLATED = "translated"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class SettingAnswer:
    """A backend's answer for one recipe field.

    path: dotted key of a leaf field, such as "training.precision".
    detail: for TRANSLATED, the backend's own setting and value; for REFUSED, why; else empty.
    """

    path: str
    answer: Answer
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run is expected to need: formulas, not measurements; None where nothing is known.

    parameters, trainable_parameters: counts. memory_bytes: per worker process, by component
    ("libraries", "weights", "gradients", "optimizer", "activations", "logits", "reference"). checkpoint_bytes: one
    checkpoint on disk. total_steps: optimizer steps. notes: assumptions, in words.
    """

    parameters: int | None = None
    trainable_parameters: int | None = None
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    checkpoint_bytes: int | None = None
    total_steps: int | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class PreviewToken:
    """One token of a row: its text, whether the loss is taken on it, and its document's number in the row, from 0."""

    id: int
    text: str
    trained: bool
    document: int = 0


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The first batch as the backend will see it, and what the whole data set holds.

    rows: token rows of the first microbatch. documents, tokens, trained_tokens: counts over the
    training data; a task without tokens has 0 of them, and pieces of text that describe its batch as
    rows. warnings: things a person should know before training, in words.
    """

    rows: Sequence[Sequence[PreviewToken]]
    documents: int
    tokens: int
    trained_tokens: int
    total_steps: int
    warnings: Sequence[str] = ()


PrepareProgress = Callable[[str, int, "int | None"], None]
"""Called as (phase, done, total), total None where it is not known; may raise to stop the work."""


@dataclass(frozen=True, kw_only=True)
class PreparedPart:
    """Training or held-out data in numbers.

    rows: rows of at most `row_length` tokens. empty_places: rows × row_length less the tokens in them.
    trained_tokens: positions that carry loss.
    """

    documents: int
    rows: int
    tokens: int
    trained_tokens: int
    empty_places: int


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What `Backend.prepare` made, or found made already (`reused`).

    folders: the prepared folders, see `nexa.prepared`. bytes: their size. validation: None where nothing is
    held out. warnings: things a person should know before training, in words.
    """

    folders: Sequence[Path]
    bytes: int
    reused: bool
    row_length: int
    train: PreparedPart
    validation: PreparedPart | None = None
    warnings: Sequence[str] = ()


class RunState(StrEnum):
    """How a worker's part of a run ended, when it ended in order."""

    COMPLETED = "completed"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What `Backend.run` returns on every rank.

    step: optimizer steps done over all attempts. metrics: final figures ("loss", "eval_loss",
    "perplexity"). checkpoint: name of the last committed checkpoint artifact, None if none. reason: why
    a completed run ended before its last step, else empty.
    """

    state: RunState
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    reason: str = ""


class ChatSession(ABC):
    """A loaded checkpoint that answers."""

    @abstractmethod
    def reply(self, messages: Sequence[Mapping[str, str]], *, max_new_tokens: int, temperature: float) -> Iterator[str]:
        """Yield the answer to a conversation piece by piece.

        messages: {"role": "system" | "user" | "assistant", "content": text}, oldest first.
        temperature: 0 is greedy.
        """

    @abstractmethod
    def complete(self, text: str, *, max_new_tokens: int, temperature: float) -> Iterator[str]:
        """Yield the continuation of plain text piece by piece."""


class Backend(ABC):
    """A trainer that Nexa can drive. `nexa.testing.backend.BackendContract` tests one."""

    @abstractmethod
    def check(self, recipe: Recipe) -> Sequence[Problem]:
        """Return what stops this recipe from training here; empty when nothing does.

        Covers what the schema and the plan can't know: unsupported combinations, missing packages or
        devices, models that do not exist. Local data files are looked for by the plan. Imports nothing heavy.
        """

    @abstractmethod
    def settings(self, recipe: Recipe) -> Sequence[SettingAnswer]:
        """Answer for every leaf field of the recipe schema, once each.

        A refused field that the recipe sets away from its default stops the launch.
        """

    def effective(self, recipe: Recipe) -> Mapping[str, Any]:
        """Return the configuration that `run` trains by: what the trainer is given, by the trainer's own names.

        JSON values, nested as the trainer likes, defaults filled in: the arguments of its constructors, its
        configuration file, its command line. It is made by the functions that `run` itself uses, so that
        the two can't differ, and without reading data or importing anything heavy. What Nexa acts on
        itself (`nexa.settings_report.CORE_FIELDS`) need not be in it.

        `nexa.testing.settings.SettingsContract` changes every recipe field in turn and wants this, or the answer
        of `settings`, to change with it. Raises UserError for a recipe that the trainer can't take.
        """
        raise UserError(f"{type(self).__name__} does not show the configuration it trains by")

    @abstractmethod
    def plan(self, recipe: Recipe, resources: Resources) -> LaunchSpec:
        """Return how the workers are started. Pure: same input, same output, no side effect."""

    def estimate(self, recipe: Recipe, resources: Resources) -> Estimate:
        """Return what the run is expected to need; nothing known unless a backend says so."""
        return Estimate()

    def explain(self, recipe: Recipe, run_dir: Path) -> str:
        """Return the configuration that the trainer will be given, as text for `nexa launch --explain`.

        run_dir: the run's folder, which need not exist. Empty where there is nothing to show beside the settings.
        """
        return ""

    @abstractmethod
    def preview(self, recipe: Recipe) -> Preview:
        """Load tokenizer and data and return the first batch; train nothing, write no checkpoint.

        Raises DataError where the data can't be trained on.
        """

    def prepare(self, recipe: Recipe, *, on_progress: PrepareProgress | None = None) -> Preparation:
        """Make the recipe's data ready for training and keep it, so that a run starts at once.

        Offered by backends with capability "prepare". Loads no model and needs no GPU. Raises DataError where
        the data can't be trained on.
        """
        raise UserError(f"{type(self).__name__} prepares no data before a run")

    def show_rows(self, recipe: Recipe, start: int, count: int) -> Sequence[Sequence[PreviewToken]]:
        """Up to `count` training rows from row `start` (from 0) on; offered with capability "prepare".

        Raises UserError where there is no row `start`.
        """
        raise UserError(f"{type(self).__name__} shows no rows of prepared data")

    @abstractmethod
    def run(self, context: RunContext) -> RunResult:
        """Train, in a worker process; called once on every rank.

        Polls `context.stop_requested()` at least once a step, in every loop; when set, saves a
        checkpoint at the step boundary, commits it and returns RunState.STOPPED. Continues from
        `context.resume_from` when it is set. Only rank 0 commits checkpoints.
        """

    def launcher_ranks(self, environment: Mapping[str, str]) -> LauncherRanks | None:
        """Return which of the processes that a launcher started this one is; None where none did.

        torchrun's variables unless a backend knows more launchers. Raises UserError for contradictions.
        """
        from nexa.worker.place import LauncherRanks

        return LauncherRanks.from_environment(environment)

    def share(self, text: str | None) -> str:
        """Return rank 0's text on every rank; called before training, where a launcher started the ranks.

        Only for backends that may train in processes which Nexa did not start. Raises WorkerError when
        rank 0 can't be reached.
        """
        raise UserError(f"{type(self).__name__} can't join processes that a launcher started", hint="use: nexa launch")

    def open_chat(self, checkpoint: Path) -> ChatSession:
        """Load a checkpoint folder for `nexa chat`; offered by backends with capability "chat"."""
        raise UserError(f"{type(self).__name__} can't talk to a checkpoint")

    def export(self, checkpoint: Path, destination: Path, *, merge: bool) -> Mapping[str, Any]:
        """Write a checkpoint's model into the empty folder `destination`; offered with capability "export".

        The result is for other programs, without trainer state. merge: an adapter becomes part of its base model, and
        what is returned tells by which `largest_difference` of logits, as a share of the largest, on how many `prompts`
        it differs from the adapter, within which `tolerance`, and the name of its `base`. Raises UserError where the
        checkpoint can't be exported so, such as an adapter of other weights than the base model's.
        """
        raise UserError(f"{type(self).__name__} exports no checkpoint")

    def open_generator(self, checkpoint: Path) -> TextGenerator:
        """Load a checkpoint folder for `nexa serve`; offered by backends with capability "serve"."""
        raise UserError(f"{type(self).__name__} can't serve a checkpoint")
