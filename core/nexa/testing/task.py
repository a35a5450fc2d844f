"""Contract tests of a task: its classes, its arithmetic, and whole runs through its backend.

A task belongs to a backend; these tests know the tasks of `torch`, whose classes derive from
`nexa_torch.TrainingTask` and `nexa_torch.BaseDataModule`. They import torch in the tests only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nexa.backend import RunState
from nexa.plugins import PluginHost, load_target
from nexa.recipe.schema import Recipe
from nexa.specs import TaskSpec
from nexa.testing.base import PluginContract
from nexa.testing.recipes import tiny_recipe
from nexa.testing.runs import Outcome, make_run, open_store, run_attempt

_TOLERANCE = 1e-4
_BATCH = 8


class TaskContract(PluginContract):
    """Every test a task of the backend `torch` must pass.

    model_name, data_uri: `model.name` and `data.remote_uri` of the task's recipes; None keeps the tiny
    recipe's language model or data. overrides: further recipe keys that the task needs. Its data must
    hold at least 32 training rows.
    """

    kind = "task"
    model_name: ClassVar[str | None] = None
    data_uri: ClassVar[str | None] = None
    overrides: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Recipe:
        """A small recipe of the task."""
        return self.make_recipe(tmp_path / "recipe")

    @classmethod
    def make_recipe(cls, folder: Path, more: Mapping[str, Any] | None = None) -> Recipe:
        """The tiny recipe for this task, with `more` overrides."""
        own: dict[str, Any] = {"method": cls.plugin_name}
        if cls.model_name is not None:
            own["model"] = {"name": cls.model_name}
        if cls.data_uri is not None:
            own["data"] = {"remote_uri": cls.data_uri}
        return tiny_recipe(folder, {**own, **cls.overrides, **(more or {})})

    @pytest.fixture(scope="class")
    @classmethod
    def finished(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Outcome]:
        """A run that trained to its end in a worker process."""
        run = make_run(cls.make_recipe(tmp_path_factory.mktemp("recipe")), tmp_path_factory.mktemp("finished"))
        return run, run_attempt(run)

    def test_its_backend_trains_it(self, host: PluginHost, spec: TaskSpec, recipe: Recipe) -> None:
        """The method is one of the backend's, and nothing stops the recipe."""
        backend = host.spec("backend", spec.backend)
        assert host.trains(backend, spec.name)
        assert [str(problem) for problem in host.create("backend", spec.backend).check(recipe)] == []

    def test_keys_it_names_exist(self, spec: TaskSpec) -> None:
        """`honours` and `refuses` name fields of the recipe, or sections with ".*" behind them."""
        paths = Recipe.leaf_paths()
        unknown = [
            key
            for key in (*spec.honours, *spec.refuses)
            if not any(path == key or (key.endswith(".*") and path.startswith(key[:-1])) for path in paths)
        ]
        assert unknown == []

    def test_it_is_made_of_the_contracts_classes(self, spec: TaskSpec) -> None:
        """Factory and data module derive from the abstract classes and leave nothing abstract."""
        for target, name in ((spec.factory, "TrainingTask"), (spec.data_module, "BaseDataModule")):
            found, contract = load_target(target), load_target(f"nexa_torch:{name}")
            assert issubclass(found, contract), target
            assert not found.__abstractmethods__, target

    def test_the_model_is_a_function_of_the_seed(self, spec: TaskSpec, recipe: Recipe) -> None:
        """Two builds have the same weights."""
        torch = pytest.importorskip("torch")
        first, second = (self._parts(spec, recipe)[0].build_model() for _ in range(2))
        assert list(first.state_dict()) == list(second.state_dict())
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), name

    def test_a_run_completes_and_commits(self, finished: tuple[Any, Outcome]) -> None:
        """Four steps of finite losses, checkpoints that verify, and none of them a pickle."""
        run, outcome = finished
        assert outcome.exit_code == 0, outcome.output
        assert outcome.result is not None
        assert (outcome.result["state"], outcome.result["step"]) == (RunState.COMPLETED, 4)
        assert all(math.isfinite(record["values"]["loss"]) for record in outcome.of_type("metrics"))
        store = open_store(run)
        names = [record["name"] for record in outcome.of_type("checkpoint")]
        assert len(names) == 2
        assert [list(store.verify(name)) for name in names] == [[], []]
        folder = store.fetch(names[-1])
        assert list(folder.glob("*.safetensors"))
        assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".pth"}]

    def test_a_resumed_run_repeats_the_losses_exactly(self, finished: tuple[Any, Outcome], tmp_path: Path) -> None:
        """From the checkpoint of step 2 on, bit for bit; so the model's randomness comes from the step's seed."""
        run, first = finished
        recipe = self.make_recipe(tmp_path / "recipe", {"artifacts.store_uri": run.plan["store"]["uri"]})
        again = run_attempt(make_run(recipe, tmp_path / "again"), resume_from=first.of_type("checkpoint")[0]["name"])
        assert again.exit_code == 0, again.output
        losses = {record["step"]: record["values"]["loss"] for record in again.of_type("metrics")}
        before = {record["step"]: record["values"]["loss"] for record in first.of_type("metrics")}
        assert losses == {step: loss for step, loss in before.items() if step > 2}

    @pytest.mark.parametrize("micro", [1, 2, 3], ids=lambda micro: f"microbatches-of-{micro}")
    def test_accumulated_gradients_are_the_large_batch_s(self, spec: TaskSpec, tmp_path: Path, micro: int) -> None:
        """However a batch of 8 rows is cut, uneven tail included, its gradient is the same."""
        whole = self._gradient(spec, tmp_path / "whole", _BATCH)
        cut = self._gradient(spec, tmp_path / "cut", micro)
        assert json.dumps(sorted(whole)) == json.dumps(sorted(cut))
        for name, gradient in whole.items():
            difference = (gradient - cut[name]).norm().item()
            assert difference <= _TOLERANCE * max(1e-6, gradient.norm().item()), name

    def _parts(self, spec: TaskSpec, recipe: Recipe) -> tuple[Any, Any]:
        """Task and data module, set up."""
        module = load_target(spec.data_module)(recipe)
        module.prepare_data()
        module.setup("fit")
        return load_target(spec.factory)(recipe, module), module

    def _gradient(self, spec: TaskSpec, folder: Path, micro: int) -> dict[str, Any]:
        """Gradient of the mean loss of the first 8 rows, in microbatches of `micro`, dropout off."""
        recipe = self.make_recipe(folder, {"training.microbatch_size_per_gpu": micro})
        task, module = self._parts(spec, recipe)
        loader, sampler = module.train_dataloader(0, 1)
        if hasattr(sampler, "select"):
            sampler.select(total_rows=_BATCH)
        model, criterion = task.build_model().eval(), task.build_criterion()
        batches = list(loader)
        weights = [task.batch_weight(batch) for batch in batches]
        for batch, weight in zip(batches, weights, strict=True):
            loss, _ = task.train_step(batch, model, criterion)
            (loss * weight / sum(weights)).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
