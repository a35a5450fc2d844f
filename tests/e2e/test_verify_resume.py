"""`nexa verify-resume`: an honest backend is certified, one that forgets its optimizer state is found out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from workspace import Workspace, end_all, make_workspace

FORGETFUL = """\
import torch
from nexa.hookspecs import hookimpl
from nexa.specs import BackendSpec
from nexa_torch.backend import TorchBackend


class ForgetfulBackend(TorchBackend):
    def plan(self, recipe, resources):
        from dataclasses import replace

        return replace(super().plan(recipe, resources), factory="nexa_forgetful:ForgetfulBackend")

    def run(self, context):
        from nexa_torch.engine import preparing

        restore = preparing.restore_trainer

        def forget(folder, model, optimizer, *arguments, **options):
            restore(folder, model, optimizer, *arguments, **options)
            optimizer.state.clear()

        preparing.restore_trainer = forget
        return super().run(context)


@hookimpl
def nexa_register_backends():
    return [
        BackendSpec(
            name="forgetful",
            summary="Loses its optimizer state.",
            factory="nexa_forgetful:ForgetfulBackend",
            methods=("pretrain", "sft"),
        )
    ]
"""


@pytest.fixture
def workspace(tmp_path: Path):
    made = make_workspace(tmp_path / "work")
    yield made
    end_all(made)


def plant(folder: Path) -> str:
    """Install the forgetful backend into a folder, which is returned for PYTHONPATH."""
    information = folder / "nexa_forgetful-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-forgetful\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[nexa]\nforgetful = nexa_forgetful\n")
    (folder / "nexa_forgetful.py").write_text(FORGETFUL)
    return str(folder)


def test_a_backend_that_continues_exactly(workspace: Workspace) -> None:
    workspace.install_echo()
    short = ("training.max_steps=60", "training.save_every_steps=10", "echo.delay_seconds=0.01")
    outcome = workspace.nexa("verify-resume", "echo.yaml", *short, "--cuts", "3", **workspace.echo_variables())
    assert outcome.exit_code == 0, outcome.out + outcome.err
    assert "result: bit-exact" in outcome.out
    assert {"SIGTERM", "SIGKILL"} <= set(re.findall(r"SIG[A-Z]+", outcome.out))
    for run in workspace.runs_dir.iterdir():
        certificate = json.loads((run / "resume-certificate.json").read_text())
        assert certificate["holds"] is True
        assert len(certificate["cuts"]) == 3
        shown = workspace.nexa("show", run.name, **workspace.echo_variables()).out
        assert re.search(r"verified +cut and resumed \(SIG.*\): bit-exact", shown)


def test_a_backend_that_forgets_its_optimizer_state(workspace: Workspace) -> None:
    path = plant(workspace.folder / "site-forgetful")
    arguments = (
        "backend=forgetful",
        "training.max_steps=40",
        "training.save_every_steps=5",
        "--cuts",
        "1",
        "--seed",
        "5",
    )
    outcome = workspace.nexa("verify-resume", "tiny.yaml", *arguments, "--json", timeout=280, PYTHONPATH=path)
    assert outcome.exit_code == 1, outcome.out + outcome.err
    certificate = outcome.json
    assert certificate["holds"] is False
    (cut,) = certificate["cuts"]
    kept = int(cut["resumed_from"].rpartition("-")[2])
    # The first step after the resume takes its loss from weights that are still right.
    assert kept < certificate["first_step"] <= 40
    assert certificate["comparison"]["tensor_difference"]["name"].startswith("model.safetensors:")
    assert certificate["verdict"].startswith("differs: ")


def test_a_recipe_that_can_not_be_resumed(workspace: Workspace) -> None:
    outcome = workspace.nexa("verify-resume", "tiny.yaml", "checkpointing.save_optimizer=false")
    assert outcome.exit_code == 2
    assert "checkpointing.save_optimizer=true" in outcome.err
    assert not workspace.runs_dir.exists()
