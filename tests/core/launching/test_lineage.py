"""Lineage from real git work trees and installed distributions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import nexa
from nexa.lineage import code_revision, collect_lineage, distribution_versions
from nexa.recipe.schema import Recipe


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    result = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return result.stdout.strip()


@pytest.fixture
def work_tree(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "recipe.yaml").write_text("method: sft\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.model_validate(
        {
            "method": "sft",
            "model": {"name": "org/model"},
            "data": {"remote_uri": "rows.jsonl", "dataset_version": "v7", "expected_dataset_hash": "0" * 64},
        }
    )


def test_clean_work_tree(work_tree: Path) -> None:
    found = code_revision(work_tree)
    assert found is not None
    assert found.revision == git(work_tree, "rev-parse", "HEAD")
    assert not found.dirty
    assert Path(found.root) == work_tree.resolve()


def test_untracked_files_do_not_make_a_work_tree_dirty(work_tree: Path) -> None:
    (work_tree / "runs").mkdir()
    (work_tree / "runs" / "run.json").write_text("{}")
    found = code_revision(work_tree)
    assert found is not None
    assert not found.dirty


def test_a_changed_tracked_file_does(work_tree: Path) -> None:
    (work_tree / "recipe.yaml").write_text("method: pretrain\n")
    found = code_revision(work_tree)
    assert found is not None
    assert found.dirty


def test_outside_a_work_tree(tmp_path: Path) -> None:
    assert code_revision(tmp_path) is None


def test_without_git(work_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(work_tree))
    assert code_revision(work_tree) is None


def test_variables_of_a_surrounding_git_command_are_ignored(
    work_tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("elsewhere")))
    assert code_revision(work_tree) is not None


def test_a_work_tree_can_not_run_programs(work_tree: Path) -> None:
    canary = work_tree / "canary"
    program = work_tree / "monitor.sh"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    git(work_tree, "config", "core.fsmonitor", str(program))
    assert code_revision(work_tree) is not None
    assert not canary.exists()


def test_versions_of_distributions() -> None:
    assert distribution_versions(["nexa-train", "no-such-distribution"]) == {
        "nexa-train": nexa.__version__,
        "no-such-distribution": None,
    }


def test_lineage_of_a_recipe(work_tree: Path, recipe: Recipe) -> None:
    lineage = collect_lineage(recipe, recipe_folder=work_tree, distributions=["nexa-train"], parent="earlier-run")
    assert lineage["code"]["revision"] == git(work_tree, "rev-parse", "HEAD")
    assert lineage["nexa_version"] == nexa.__version__
    assert lineage["plugins"] == {"nexa-train": nexa.__version__}
    assert lineage["dataset"] == {"uri": "rows.jsonl", "version": "v7", "expected_hash": "0" * 64}
    assert lineage["parent"] == "earlier-run"


def test_lineage_outside_git(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert collect_lineage(recipe, recipe_folder=None, distributions=[])["code"] is None
