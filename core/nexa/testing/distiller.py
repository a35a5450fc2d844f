"""Contract tests of a distiller: an estimate first, then a capture that can be cut short."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nexa.distiller import CaptureEstimate, Distiller
from nexa.errors import Problem
from nexa.plugins import PluginHost, get_host
from nexa.recipe.schema import Recipe
from nexa.testing.base import CreatedPluginContract
from nexa.testing.recipes import tiny_recipe

INDEX_NAME = "distilled_dataset.json"


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A finished capture: folder of the recipe's data, folder of the output, and the index that was returned."""

    recipe_folder: Path
    folder: Path
    index: Path


class DistillerContract(CreatedPluginContract):
    """Every test a distiller must pass.

    overrides: recipe keys the distiller needs on top of `nexa.testing.recipes.tiny_recipe`.
    """

    kind = "distiller"
    overrides: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def distiller(self, host: PluginHost) -> Distiller:
        """The distiller under test."""
        return host.create("distiller", self.plugin_name)

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Recipe:
        """A small recipe whose teacher can be captured."""
        return tiny_recipe(tmp_path / "recipe", self.overrides)

    @pytest.fixture(scope="class")
    @classmethod
    def captured(cls, tmp_path_factory: pytest.TempPathFactory) -> Captured:
        """A capture that ran to its end; tests leave it as it is."""
        recipe_folder, folder = tmp_path_factory.mktemp("recipe"), tmp_path_factory.mktemp("captured") / "out"
        distiller: Distiller = get_host().create("distiller", cls.plugin_name)
        index = distiller.capture(tiny_recipe(recipe_folder, cls.overrides), folder)
        return Captured(recipe_folder=recipe_folder, folder=folder, index=index)

    def test_check_finds_nothing_wrong_with_a_good_recipe(self, distiller: Distiller, recipe: Recipe) -> None:
        """A recipe that can be captured has no problems."""
        assert list(distiller.check(recipe)) == []

    def test_check_returns_problems_instead_of_raising(self, distiller: Distiller, tmp_path: Path) -> None:
        """Missing data is a problem."""
        missing = str(tmp_path / "missing.jsonl")
        problems = distiller.check(tiny_recipe(tmp_path / "recipe", {**self.overrides, "data.remote_uri": missing}))
        assert problems
        assert all(isinstance(problem, Problem) for problem in problems)

    def test_the_estimate_writes_nothing(self, distiller: Distiller, recipe: Recipe, tmp_path: Path) -> None:
        """Tokens and bytes are quoted without running the teacher."""
        before = sorted(tmp_path.rglob("*"))
        estimate = distiller.estimate(recipe)
        assert isinstance(estimate, CaptureEstimate)
        assert estimate.tokens > 0
        assert estimate.bytes > 0
        assert sorted(tmp_path.rglob("*")) == before

    def test_capture_writes_an_index(self, captured: Captured) -> None:
        """The returned path is a JSON index inside the output folder."""
        assert captured.index.name == INDEX_NAME
        assert captured.index.is_relative_to(captured.folder)
        assert isinstance(json.loads(captured.index.read_text(encoding="utf-8")), dict)

    def test_capture_is_reproducible(self, distiller: Distiller, captured: Captured, tmp_path: Path) -> None:
        """Two captures of one recipe have the same bytes, whatever the batch size."""
        larger = {**self.overrides, "training.microbatch_size_per_gpu": 4}
        distiller.capture(tiny_recipe(captured.recipe_folder, larger), tmp_path / "second")
        assert _digests(tmp_path / "second") == _digests(captured.folder)

    def test_a_capture_cut_short_is_continued(self, distiller: Distiller, captured: Captured, tmp_path: Path) -> None:
        """With the index and the newest file beside it lost, capturing again gives the same files."""
        out = shutil.copytree(captured.folder, tmp_path / "out")
        (out / captured.index.relative_to(captured.folder)).unlink()
        left = sorted((path for path in out.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
        for newest in left[-1:]:
            newest.unlink()
        distiller.capture(tiny_recipe(captured.recipe_folder, self.overrides), out)
        assert _digests(out) == _digests(captured.folder)


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
