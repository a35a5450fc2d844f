"""The plan of a run: everything a launch decides, worked out before anything is touched.

A plan reads a recipe and asks the chosen plugins; it writes no file and starts no process, so that
the same plan is printed by a dry run and carried out by a launch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nexa
from nexa.backend import Resources
from nexa.discovery import FIRST_PARTY_DISTRIBUTION
from nexa.environments.containers import runtime_problems
from nexa.errors import NexaError, Problem, RecipeError
from nexa.nearby import nearby
from nexa.recipe.sections.environment import CURRENT
from nexa.scheduler import Attempt
from nexa.settings_report import SettingLine, refused_settings, settings_report
from nexa.uris import absolute_uri, is_uri

if TYPE_CHECKING:
    from nexa.backend import Backend, Estimate, LaunchSpec
    from nexa.batch import BatchPlan
    from nexa.environments.choose import Placement
    from nexa.plugins import Kind, PluginHost
    from nexa.recipe.load import LoadedRecipe
    from nexa.recipe.schema import Recipe
    from nexa.scheduler import Scheduler, Submission
    from nexa.settings import Settings
    from nexa.specs import BackendSpec, PluginSpec

EXAMPLE_RUN_ID = "RUN_ID"
EXAMPLE_RENDEZVOUS = "FIRST_NODE:PORT"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a launch will do.

    backend, scheduler, store, observers: the chosen plugins' specs. store_uri: always with a scheme.
    resources, batch, environment, worker: machines, batch maths, where workers run and how one is started.
    estimate: formulas, not measurements. settings: the backend's answer for every recipe field. obstacles: what
    stops this plan from starting here and now, such as GPUs this machine lacks; empty when it can start.
    `scheduler_plugin` is the scheduler itself, which writes the submission of each attempt.
    """

    recipe: Recipe
    recipe_name: str
    recipe_path: Path
    backend: BackendSpec
    scheduler: PluginSpec
    store: PluginSpec
    store_uri: str
    observers: Sequence[PluginSpec]
    runs_dir: Path
    resources: Resources
    batch: BatchPlan
    environment: Placement
    worker: LaunchSpec
    estimate: Estimate
    settings: Sequence[SettingLine]
    obstacles: Sequence[Problem] = ()
    scheduler_plugin: Scheduler = field(repr=False, compare=False)

    @property
    def run_name(self) -> str:
        """Short name that becomes part of the run id."""
        return self.recipe.run.name or self.recipe_name

    @property
    def checkpoints_kept(self) -> int:
        """Checkpoints that lie in the store at the same time, at most; 1 where the run's length is unknown."""
        every, total = self.recipe.training.save_every_steps, self.estimate.total_steps
        saves = math.ceil(total / every) if every is not None and total is not None else 1
        keeping = self.recipe.checkpointing
        if keeping.keep_last is None:
            return saves
        held_out = bool(self.recipe.data.validation.model_fields_set)
        # A new checkpoint is committed before the oldest one goes.
        return min(saves, keeping.keep_last + 1 + (keeping.keep_best if held_out else 0))

    @property
    def disk_bytes(self) -> int | None:
        """Bytes all kept checkpoints need, None where the backend gives no estimate."""
        size = self.estimate.checkpoint_bytes
        return None if size is None else size * self.checkpoints_kept

    def require_startable(self) -> None:
        """Raise RecipeError with every obstacle, if there is one."""
        if self.obstacles:
            raise RecipeError(self.obstacles)

    def submission(self, attempt: Attempt) -> Submission:
        """Return exactly what submitting `attempt` does. Pure."""
        return self.scheduler_plugin.plan(self.recipe, attempt, self.worker, self.resources)

    def worker_argv(self, attempt: Attempt) -> list[str]:
        """Return the command that starts one node's workers of `attempt`, for people to read.

        Above one node FIRST_NODE:PORT stands for the meeting point that only the allocation knows.
        """
        from nexa.worker.command import worker_argv, worker_environment
        from nexa.worker.container import contained

        launch, several = asdict(self.worker), self.resources.num_nodes > 1
        argv = worker_argv(
            launch,
            attempt.run_dir,
            attempt.number,
            num_nodes=self.resources.num_nodes,
            rendezvous=EXAMPLE_RENDEZVOUS if several else None,
        )
        variables = worker_environment({}, launch, attempt.run_dir, attempt.number)
        return contained(launch, argv, variables, attempt.run_dir, attempt.number, several_nodes=several)[0]

    def document(self) -> dict[str, Any]:
        """The plan as JSON values: what `plan.json` holds but for what each run adds to it."""
        return {
            "nexa_version": nexa.__version__,
            "recipe": self.recipe.document(),
            "launch": asdict(self.worker),
            "resources": asdict(self.resources),
            "store": {"factory": self.store.factory, "uri": self.store_uri},
            "observers": [
                {
                    "name": spec.name,
                    "factory": spec.factory,
                    "options": self.recipe.plugin_options.get(spec.name, {}),
                }
                for spec in self.observers
            ],
            "batch": asdict(self.batch),
            "estimate": {**asdict(self.estimate), "disk_bytes": self.disk_bytes},
            "settings": [line.document() for line in self.settings],
        }


def make_plan(loaded: LoadedRecipe, *, host: PluginHost, settings: Settings, placed: bool = False) -> Plan:
    """Work out a launch from a loaded recipe, the installed plugins and the user's settings.

    placed: whether the processes stand on their machines already, so that the scheduler is not asked.

    What the backend, the scheduler and the settings report find wrong becomes the plan's obstacles, so
    that a plan for another machine can be read here. Raises RecipeError with every problem when no
    plan can be made of the recipe, and PluginError when a chosen plugin is unknown or fails to load.
    """
    store_uri = absolute_uri(loaded.recipe.artifacts.store_uri or settings.store_uri, Path.cwd())
    recipe = _with_dataset(loaded.recipe, store_uri)
    backend: Backend = host.create("backend", recipe.backend)
    scheduler: Scheduler = host.create("scheduler", recipe.scheduler)
    resources = resources_of(recipe)
    lines = settings_report(recipe, backend.settings(recipe))
    placement = _current_place() if placed else _placement(recipe, backend, host, settings, store_uri)
    recipe_there = with_environment(recipe, placement)
    problems = _with_general(
        [
            *_method_problems(recipe, host),
            *placement.problems,
            *runtime_problems(recipe, here=recipe.scheduler == "local"),
            *backend.check(recipe_there),
            *(() if placed else scheduler.check(recipe, resources)),
        ],
        recipe,
        lines,
    )
    batch = _batch(recipe, resources, problems)
    obstacles = tuple(_placed(problem, loaded) for problem in problems)
    if batch is None:
        raise RecipeError(obstacles)
    try:
        worker = placement.apply(backend.plan(recipe_there, resources), recipe, resources, store_uri)
        estimate = backend.estimate(recipe, resources)
    except NexaError:
        if obstacles:
            raise RecipeError(obstacles) from None
        raise
    return Plan(
        recipe=recipe,
        recipe_name=loaded.name,
        recipe_path=loaded.path,
        backend=host.spec("backend", recipe.backend),
        scheduler=host.spec("scheduler", recipe.scheduler),
        store=host.spec("artifact-store", store_uri.partition(":")[0]),
        store_uri=store_uri,
        observers=tuple(host.spec("observer", name) for name in recipe.tracking.observers),
        runs_dir=settings.runs_dir,
        resources=resources,
        batch=batch,
        environment=placement,
        worker=worker,
        estimate=estimate,
        settings=tuple(lines),
        obstacles=obstacles,
        scheduler_plugin=scheduler,
    )


def _with_dataset(recipe: Recipe, store_uri: str) -> Recipe:
    """The recipe with the distilled dataset that it means now; unchanged where there is none, as its backend tells."""
    if recipe.distill.dataset is None:
        return recipe
    from nexa.distilled import pinned

    try:
        return pinned(recipe, store_uri)
    except NexaError:
        return recipe


def _current_place() -> Placement:
    """Where workers run that stand on their machines already."""
    from nexa.environments.choose import Placement

    return Placement(kind="current", name="current", python=sys.executable)


def _placement(recipe: Recipe, backend: Backend, host: PluginHost, settings: Settings, store_uri: str) -> Placement:
    """Where the workers run, by the recipe's section `environment`."""
    from nexa.environments.choose import WorkerCode, choose

    spec, task = host.spec("backend", recipe.backend), host.task_of(recipe.backend, recipe.method)
    chosen: list[tuple[Kind, str]] = [
        ("backend", spec.name),
        ("artifact-store", store_uri.partition(":")[0]),
        *(("observer", name) for name in recipe.tracking.observers),
    ]
    specs: list[PluginSpec] = [host.spec(kind, name) for kind, name in chosen]
    factories = [own.factory for own in specs] + ([task.factory, task.data_module] if task is not None else [])
    distributions = [host.provider_of(kind, name).distribution for kind, name in chosen]
    try:
        own_python = backend.plan(recipe, resources_of(recipe)).python
    except NexaError:
        # Told below, with everything else that is wrong.
        own_python = sys.executable
    return choose(
        recipe,
        spec,
        own_python=own_python,
        distribution=distributions[0],
        root=settings.environments_dir,
        make_code=lambda probes: WorkerCode.of(
            settings.environments_dir,
            factories=factories,
            distributions=[*distributions, FIRST_PARTY_DISTRIBUTION],
            probes=probes,
        ),
    )


def with_environment(recipe: Recipe, placement: Placement) -> Recipe:
    """The recipe as a backend is asked about it: with the environment that was chosen.

    Its `environment.name` is the path of the chosen interpreter, or "current"; a container stays as it is.
    """
    if recipe.environment.container is not None or not placement.python:
        return recipe
    name = CURRENT if placement.is_current else placement.python
    return recipe.model_copy(update={"environment": recipe.environment.model_copy(update={"name": name})})


def resources_of(recipe: Recipe) -> Resources:
    """Machines and processes a recipe asks for: one process a GPU, at least one, unless it says otherwise."""
    cluster = recipe.cluster
    return Resources(
        num_nodes=cluster.num_nodes,
        gpus_per_node=cluster.gpus_per_node,
        processes_per_node=cluster.processes_per_node or max(1, cluster.gpus_per_node),
    )


def example_attempt(runs_dir: Path) -> Attempt:
    """The first attempt of a run whose id stands as RUN_ID, for printing commands before there is a run."""
    return Attempt(run_id=EXAMPLE_RUN_ID, run_dir=runs_dir / EXAMPLE_RUN_ID, number=1)


def _with_general(found: list[Problem], recipe: Recipe, lines: Sequence[SettingLine]) -> list[Problem]:
    """What was found, and what is wrong with the recipe whichever plugins it names.

    Not at keys that something was found at: who looked at a field itself knows better what is wrong with it.
    """
    told = {problem.path for problem in found}
    general = [
        *refused_settings(lines, backend=recipe.backend),
        *_missing_files(recipe),
        *_device_problems(recipe),
    ]
    return found + [problem for problem in general if problem.path not in told]


def _device_problems(recipe: Recipe) -> list[Problem]:
    """A number of processes that does not give each its own GPU."""
    cluster = recipe.cluster
    if not cluster.gpus_per_node or cluster.processes_per_node in (None, cluster.gpus_per_node):
        return []
    return [
        Problem(
            path="cluster.processes_per_node",
            message=f"{cluster.processes_per_node} processes on {cluster.gpus_per_node} GPUs; each needs its own",
            hint=f"set cluster.processes_per_node={cluster.gpus_per_node} or leave it out",
        )
    ]


def _method_problems(recipe: Recipe, host: PluginHost) -> list[Problem]:
    backend = host.spec("backend", recipe.backend)
    if host.trains(backend, recipe.method):
        return []
    return [
        Problem(
            path="method",
            message=f"backend {backend.name!r} has no method {recipe.method!r}",
            hint=f"it has {', '.join(host.methods(backend))}",
        )
    ]


def _missing_files(recipe: Recipe) -> list[Problem]:
    """Problems of the local files that a recipe names and that are not there."""
    named = {
        "data.remote_uri": recipe.data.remote_uri,
        "data.validation.remote_uri": recipe.data.validation.remote_uri,
        "model.chat_template": recipe.model.chat_template,
    }
    missing = {
        key: Path(place).expanduser()
        for key, place in named.items()
        if place is not None and not is_uri(place) and not Path(place).expanduser().exists()
    }
    return [
        Problem(path=key, message=f"there is no file or folder {place}", hint=nearby(place))
        for key, place in missing.items()
    ]


def _batch(recipe: Recipe, resources: Resources, problems: list[Problem]) -> BatchPlan | None:
    """Batch maths of the recipe; adds to `problems` and returns None where it does not work out."""
    from nexa.batch import resolve_batch

    try:
        return resolve_batch(recipe.training, resources.world_size)
    except RecipeError as error:
        problems.extend(error.problems)
        return None


def _placed(problem: Problem, loaded: LoadedRecipe) -> Problem:
    """The problem with the file, line and column of its key, where the recipe or its kin set it."""
    origin: Any = _nearest(loaded.origins, problem.path)
    if problem.file is not None or origin is None or origin.file is None:
        return problem
    return replace(problem, file=str(origin.file), line=origin.line, column=origin.column)


def _nearest(origins: Mapping[str, Any], path: str | None) -> Any:
    """Origin of a dotted key, or of the nearest section around it."""
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return None
