"""Contract tests of a training backend: what it says about a recipe, and what its workers do.

Capabilities tested where declared: "estimate" (`estimate` knows parameters, memory and steps),
"resume" (a run continues from its checkpoints), "chat" (`open_chat` answers from a checkpoint), "export" (`export`
writes a checkpoint for other programs).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nexa.backend import Answer, Backend, Estimate, LaunchSpec, Preview, RunState
from nexa.errors import Problem
from nexa.plan import resources_of
from nexa.plugins import PluginHost
from nexa.recipe.schema import Recipe
from nexa.runs.store import Run
from nexa.specs import BackendSpec
from nexa.testing.base import CreatedPluginContract
from nexa.testing.recipes import tiny_recipe
from nexa.testing.runs import Outcome, make_run, open_store, recipe_of, run_attempt

_HEAVY_MODULES = ("torch", "transformers", "tensorflow", "jax", "numpy")
_LIGHT_CALLS = """
import sys
from nexa.recipe.schema import Recipe
from nexa.plan import resources_of
from nexa.plugins import get_host
recipe = Recipe.model_validate_json(sys.stdin.read())
backend = get_host().create("backend", recipe.backend)
backend.check(recipe), backend.settings(recipe)
backend.plan(recipe, resources_of(recipe)), backend.estimate(recipe, resources_of(recipe))
print(*(set(sys.argv[1:]) & set(sys.modules)))
"""


class BackendContract(CreatedPluginContract):
    """Every test a training backend must pass.

    overrides: recipe keys the backend needs on top of `nexa.testing.recipes.tiny_recipe`, such as
    another method or its own section. slow_overrides: keys that make the run last for minutes, so
    that a stop request meets it while it trains.
    """

    kind = "backend"
    overrides: ClassVar[Mapping[str, Any]] = {}
    slow_overrides: ClassVar[Mapping[str, Any]] = {"training.max_steps": 100_000, "training.save_every_steps": 50_000}

    @pytest.fixture
    def backend(self, host: PluginHost) -> Backend:
        """The backend under test."""
        return host.create("backend", self.plugin_name)

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Recipe:
        """A small recipe that the backend can train."""
        return self.make_recipe(tmp_path / "recipe")

    @pytest.fixture(scope="class")
    @classmethod
    def finished(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Outcome]:
        """A run that trained to its end in a worker process."""
        run = make_run(cls.make_recipe(tmp_path_factory.mktemp("recipe")), tmp_path_factory.mktemp("finished"))
        return run, run_attempt(run)

    @pytest.fixture(scope="class")
    @classmethod
    def stopped(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Outcome]:
        """A long run that was asked to stop after its second metric record."""
        recipe = cls.make_recipe(tmp_path_factory.mktemp("recipe"), cls.slow_overrides)
        run = make_run(recipe, tmp_path_factory.mktemp("stopped"))
        return run, run_attempt(run, stop_when=lambda events: _count(events, "metrics") >= 2)

    @classmethod
    def make_recipe(cls, folder: Path, more: Mapping[str, Any] | None = None) -> Recipe:
        """The tiny recipe for this backend, its data in `folder`, with `more` overrides."""
        return tiny_recipe(folder, {"backend": cls.plugin_name, **cls.overrides, **(more or {})})

    def test_it_names_the_method(self, spec: BackendSpec, recipe: Recipe) -> None:
        """The tiny recipe's method is among those of the spec."""
        assert recipe.method in spec.methods

    def test_check_finds_nothing_wrong_with_a_good_recipe(self, backend: Backend, recipe: Recipe) -> None:
        """A recipe that can be trained has no problems."""
        assert list(backend.check(recipe)) == []

    def test_check_returns_problems_instead_of_raising(self, backend: Backend, tmp_path: Path) -> None:
        """A recipe with missing data is no reason to raise; the plan tells of the file itself."""
        recipe = self.make_recipe(tmp_path / "recipe", {"data.remote_uri": str(tmp_path / "missing.jsonl")})
        assert all(isinstance(problem, Problem) for problem in backend.check(recipe))

    def test_settings_answers_every_field_once(self, backend: Backend, recipe: Recipe) -> None:
        """No field is left out, none is answered twice, none is made up; reasons are given."""
        answers = backend.settings(recipe)
        counts = Counter(answer.path for answer in answers)
        fields = set(Recipe.leaf_paths())
        assert {path for path, count in counts.items() if count > 1} == set()
        assert fields - set(counts) == set(), "recipe fields without an answer"
        assert set(counts) - fields == set(), "answers for fields that do not exist"
        silent = [answer.path for answer in answers if answer.answer is not Answer.HONOURED and not answer.detail]
        assert silent == [], "translated and refused fields say how or why"

    def test_plan_is_pure(
        self, backend: Backend, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same input gives the same plan and touches neither files nor the environment."""
        monkeypatch.chdir(tmp_path)
        resources = resources_of(recipe)
        before = (_files(tmp_path), dict(os.environ))
        plan = backend.plan(recipe, resources)
        assert isinstance(plan, LaunchSpec)
        assert backend.plan(recipe, resources) == plan
        assert (_files(tmp_path), dict(os.environ)) == before
        assert plan.processes_per_node == resources.processes_per_node
        assert ":" in plan.factory

    def test_planning_imports_nothing_heavy(self, recipe: Recipe) -> None:
        """check, settings, plan and estimate work on a login node, where importing torch takes long."""
        answer = subprocess.run(
            [sys.executable, "-c", _LIGHT_CALLS, *_HEAVY_MODULES],
            input=recipe.model_dump_json(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.split() == []

    def test_estimate_is_positive_where_known(self, backend: Backend, spec: BackendSpec, recipe: Recipe) -> None:
        """Numbers are counts and bytes; with the capability "estimate" all of them are known."""
        estimate = backend.estimate(recipe, resources_of(recipe))
        assert isinstance(estimate, Estimate)
        numbers = (
            estimate.parameters,
            estimate.trainable_parameters,
            estimate.checkpoint_bytes,
            estimate.total_steps,
        )
        assert all(number is None or number > 0 for number in numbers)
        assert all(size >= 0 for size in estimate.memory_bytes.values())
        if "estimate" in spec.capabilities:
            assert estimate.parameters is not None
            assert estimate.memory_bytes
            assert estimate.total_steps in (recipe.training.max_steps, None)

    def test_preview_shows_the_first_batch(self, backend: Backend, recipe: Recipe, tmp_path: Path) -> None:
        """There are rows, some of their tokens are trained on, and nothing is committed."""
        preview = backend.preview(recipe)
        assert isinstance(preview, Preview)
        assert preview.rows
        assert any(token.trained for row in preview.rows for token in row)
        assert 0 < preview.trained_tokens <= preview.tokens
        assert preview.documents > 0
        assert preview.total_steps == recipe.training.max_steps
        assert not [path for path in _files(tmp_path) if path.endswith("manifest.json")]

    def test_a_run_completes(self, finished: tuple[Run, Outcome]) -> None:
        """The worker ends with exit code 0 and the result of a completed run."""
        run, outcome = finished
        assert outcome.exit_code == 0, outcome.output
        assert outcome.error is None
        assert outcome.result is not None
        assert outcome.result["state"] == RunState.COMPLETED
        assert outcome.result["step"] == _max_steps(run)

    def test_events_tell_the_run(self, finished: tuple[Run, Outcome]) -> None:
        """Rank 0 writes start, metrics of rising steps with a finite loss, and end."""
        run, outcome = finished
        types = [record["type"] for record in outcome.events]
        assert types[0] == "start"
        assert types[-1] == "end"
        assert outcome.events[-1]["state"] == RunState.COMPLETED
        metrics = outcome.of_type("metrics")
        steps = [record["step"] for record in metrics]
        assert steps == sorted(set(steps))
        assert steps[-1] == _max_steps(run)
        assert all(math.isfinite(record["values"]["loss"]) for record in metrics)
        assert any(record["total_steps"] == _max_steps(run) for record in outcome.of_type("progress"))

    def test_checkpoints_are_whole_artifacts(self, finished: tuple[Run, Outcome]) -> None:
        """A checkpoint every `save_every_steps` and at the end, each verified and listed in the events."""
        run, outcome = finished
        store = open_store(run)
        recorded = {record["step"]: record["name"] for record in outcome.of_type("checkpoint")}
        every, last = run.plan["recipe"]["training"]["save_every_steps"], _max_steps(run)
        assert set(recorded) == {*range(every, last + 1, every), last}
        for step, name in recorded.items():
            assert name == f"checkpoints/{run.run_id}/step-{step:08d}"
            assert list(store.verify(name)) == []
        assert outcome.result is not None
        assert outcome.result["checkpoint"] == recorded[last]

    def test_nothing_is_left_in_staging(self, finished: tuple[Run, Outcome]) -> None:
        """Committed checkpoints leave no copy in the run directory."""
        run, _ = finished
        assert _files(run.path / "checkpoints") == {}

    def test_a_stop_request_saves_and_ends_the_run(self, stopped: tuple[Run, Outcome]) -> None:
        """A run asked to stop commits the step it is at and ends in order."""
        run, outcome = stopped
        assert outcome.exit_code == 0, outcome.output
        assert outcome.result is not None
        assert outcome.result["state"] == RunState.STOPPED
        assert 0 < outcome.result["step"] < _max_steps(run)
        name = outcome.result["checkpoint"]
        assert name == f"checkpoints/{run.run_id}/step-{outcome.result['step']:08d}"
        assert list(open_store(run).verify(name)) == []
        assert outcome.events[-1]["state"] == RunState.STOPPED

    def test_a_resumed_run_continues_where_it_stopped(
        self, spec: BackendSpec, finished: tuple[Run, Outcome], tmp_path: Path
    ) -> None:
        """Another run that starts from the finished run's first checkpoint repeats the rest of its losses."""
        self.require(spec, "resume")
        run, first = finished
        checkpoint = first.of_type("checkpoint")[0]
        again = run_attempt(make_run(recipe_of(run), tmp_path), resume_from=checkpoint["name"])
        assert again.exit_code == 0, again.output
        assert again.result is not None
        assert (again.result["state"], again.result["step"]) == (RunState.COMPLETED, _max_steps(run))
        losses = {record["step"]: record["values"]["loss"] for record in again.of_type("metrics")}
        before = {record["step"]: record["values"]["loss"] for record in first.of_type("metrics")}
        assert min(losses) > checkpoint["step"]
        expected = {step: loss for step, loss in before.items() if step > checkpoint["step"]}
        assert losses == pytest.approx(expected, rel=1e-5)

    def test_a_worker_that_fails_says_why(self, tmp_path: Path) -> None:
        """Data that is gone when the worker starts ends it with an error on record, not with success."""
        recipe = self.make_recipe(tmp_path / "recipe")
        run = make_run(recipe, tmp_path / "failing")
        Path(recipe.data.remote_uri).unlink()
        outcome = run_attempt(run)
        assert outcome.exit_code != 0
        assert outcome.result is None
        assert outcome.error is not None
        assert Path(recipe.data.remote_uri).name in outcome.error["message"]
        assert outcome.events[-1]["type"] == "end"
        assert outcome.events[-1]["state"] == "failed"

    def test_a_checkpoint_answers(self, backend: Backend, spec: BackendSpec, finished: tuple[Run, Outcome]) -> None:
        """`nexa chat` gets text from a checkpoint, the same each time when greedy."""
        self.require(spec, "chat")
        run, outcome = finished
        chat = backend.open_chat(open_store(run).fetch(outcome.of_type("checkpoint")[-1]["name"]))
        messages = [{"role": "user", "content": "Name a colour."}]
        answers = ["".join(chat.reply(messages, max_new_tokens=8, temperature=0.0)) for _ in range(2)]
        assert answers[0] == answers[1]
        assert isinstance("".join(chat.complete("Once", max_new_tokens=4, temperature=0.0)), str)

    def test_a_checkpoint_is_exported(
        self, backend: Backend, spec: BackendSpec, finished: tuple[Run, Outcome], tmp_path: Path
    ) -> None:
        """`nexa export` gets files, without the run's state or manifest, and the checkpoint stays as it is."""
        self.require(spec, "export")
        run, outcome = finished
        name = outcome.of_type("checkpoint")[-1]["name"]
        destination = tmp_path / "exported"
        destination.mkdir()
        proof = backend.export(open_store(run).fetch(name), destination, merge=False)
        assert json.loads(json.dumps(dict(proof))) == dict(proof)
        files = _files(destination)
        assert files
        assert not [path for path in files if "manifest.json" in path or "trainer" in path]
        assert list(open_store(run).verify(name)) == []


def _count(events: Sequence[Mapping[str, Any]], type: str) -> int:
    return sum(record["type"] == type for record in events)


def _max_steps(run: Run) -> int:
    return int(run.plan["recipe"]["training"]["max_steps"])


def _files(folder: Path) -> dict[str, int]:
    """Every file below `folder` with its modification time in nanoseconds."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
