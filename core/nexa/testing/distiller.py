"""Contract tests of a distiller: an estimate first, then a capture that can be cut short."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nexa.distiller import CaptureEstimate, Distiller
from nexa.errors import Problem
from nexa.plugins import PluginHost
from nexa.recipe.schema import Recipe
from nexa.testing.base import CreatedPluginContract
from nexa.testing.recipes import tiny_recipe

INDEX_NAME = "distilled_dataset.json"


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

    def test_capture_writes_an_index(self, distiller: Distiller, recipe: Recipe, tmp_path: Path) -> None:
        """The returned path is a JSON index inside the output folder."""
        index = distiller.capture(recipe, tmp_path / "out")
        assert index.name == INDEX_NAME
        assert index.is_relative_to(tmp_path / "out")
        assert isinstance(json.loads(index.read_text(encoding="utf-8")), dict)

    def test_capture_is_reproducible(self, distiller: Distiller, recipe: Recipe, tmp_path: Path) -> None:
        """Two captures of one recipe have the same bytes, whatever the batch size."""
        distiller.capture(recipe, tmp_path / "first")
        larger = {**self.overrides, "training.microbatch_size_per_gpu": 4}
        distiller.capture(tiny_recipe(tmp_path / "recipe", larger), tmp_path / "second")
        assert _digests(tmp_path / "first") == _digests(tmp_path / "second")

    def test_a_capture_cut_short_is_continued(self, distiller: Distiller, recipe: Recipe, tmp_path: Path) -> None:
        """With the index and the newest file lost, capturing again gives the same files."""
        out = tmp_path / "out"
        index = distiller.capture(recipe, out)
        whole = _digests(out)
        newest = max((path for path in out.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
        index.unlink()
        newest.unlink(missing_ok=True)
        distiller.capture(recipe, out)
        assert _digests(out) == whole


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
