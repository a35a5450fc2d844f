"""Real runs of the kit's recipe by one backend, each made when the first check asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nexa.artifacts import ArtifactStore
from nexa.backend import Backend, Preview
from nexa.conformance.data import CONVERSATIONS, PACKED_ROWS, SAVE_EVERY, STEPS, WARMUP, write_recipe
from nexa.errors import NexaError, UserError
from nexa.plugins import PluginHost
from nexa.recipe.schema import Recipe
from nexa.runs.store import Run
from nexa.specs import BackendSpec
from nexa.testing.runs import Outcome, create_run, open_store, plan_recipe, run_attempt

LANGUAGE = "language-model"


class CheckError(Exception):
    """A check could not be made, since a run of it was refused or failed; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run that completed: its folder, its events and result, and the store of its checkpoints."""

    run: Run
    outcome: Outcome
    store: ArtifactStore

    def series(self, name: str) -> list[float | None]:
        """A metric of each step, None where a step has no such figure."""
        found = {record["step"]: record["values"].get(name) for record in self.outcome.of_type("metrics")}
        return [found.get(step) for step in range(1, STEPS + 1)]

    def checkpoint(self, step: int) -> str:
        """Name of the checkpoint of a step. Raises CheckError where none was recorded."""
        for record in self.outcome.of_type("checkpoint"):
            if record["step"] == step:
                return str(record["name"])
        raise CheckError(f"there is no checkpoint of step {step}")


class Laboratory:
    """A backend, and what it made of the kit's recipe; a run is shared by all checks that look at it."""

    def __init__(self, host: PluginHost, backend: str, folder: Path, overrides: Mapping[str, Any]) -> None:
        """overrides: recipe keys on top of the kit's and of the backend's own. Raises PluginError."""
        spec = host.spec("backend", backend)
        assert isinstance(spec, BackendSpec)
        self.host, self.spec, self.folder = host, spec, folder
        self._overrides = {"backend": backend, **spec.conformance.overrides, **overrides}

    @cached_property
    def backend(self) -> Backend:
        """The backend under test."""
        return self.host.create("backend", self.spec.name)

    def recipe(self, name: str, more: Mapping[str, Any] | None = None) -> Recipe:
        """The kit's recipe with its files in a folder of this name. Raises UserError where an override fits no key."""
        from pydantic import ValidationError

        values = {**self._overrides, **(more or {})}
        for section in {key.partition(".")[0] for key in values} - set(Recipe.model_fields):
            if self.host.options_model(section) is None:
                raise UserError(f"{section!r} is neither a recipe key nor a plugin with options")
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return write_recipe(folder, values, language=LANGUAGE in self.spec.capabilities)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    @cached_property
    def preview(self) -> Preview:
        """The first batch, as `nexa launch --dry-run` shows it."""
        try:
            return self.backend.preview(self.recipe("preview"))
        except NexaError as error:
            raise CheckError(f"preview: {error}") from error

    @cached_property
    def plain(self) -> Trained:
        """All documents in one microbatch, a row each."""
        return self._train("plain", {})

    @cached_property
    def accumulated(self) -> Trained:
        """The same batch in four microbatches of two rows."""
        rows = len(CONVERSATIONS) // 4
        return self._train(
            "accumulated", {"training.microbatch_size_per_gpu": rows, "training.grad_accumulation_steps": 4}
        )

    @cached_property
    def packed(self) -> Trained:
        """The same documents in four full rows."""
        return self._train("packed", {"data.packing": True, "training.microbatch_size_per_gpu": PACKED_ROWS})

    @cached_property
    def warmed(self) -> Trained:
        """The plain run with a warm-up, in a run of its own, since libraries begin theirs at different rates."""
        return self._train("warmed", {"optimizer.scheduler.warmup_steps": WARMUP})

    @cached_property
    def resumed(self) -> Trained:
        """Another run, continued from the plain run's checkpoint in the middle."""
        return self._train("plain", {}, resume_from=self.plain.checkpoint(SAVE_EVERY))

    def _train(self, name: str, more: Mapping[str, Any], *, resume_from: str | None = None) -> Trained:
        recipe = self.recipe(name, more)
        folder = self.folder / name
        try:
            plan = plan_recipe(recipe, folder)
        except NexaError as error:
            raise CheckError(f"the launch is refused: {error}") from error
        if plan.obstacles:
            raise CheckError(f"the launch is refused: {'; '.join(map(str, plan.obstacles))}")
        plan.environment.place_code()
        run = create_run(recipe, folder, launch=plan.worker, resources=plan.resources, more=plan.document())
        try:
            outcome = run_attempt(run, resume_from=resume_from)
        except TimeoutError as error:
            raise CheckError(str(error)) from error
        if outcome.exit_code or outcome.result is None:
            message = (outcome.error or {}).get("message") or outcome.output[-2000:]
            raise CheckError(f"the worker ended with exit code {outcome.exit_code}: {message}")
        return Trained(run=run, outcome=outcome, store=open_store(run))
