"""`nexa launch`: the shapes of its command line, what it shows, and that showing starts nothing."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nexa.backend import Preview, PreviewToken
from nexa.cli.main import main
from nexa.cli.plan_view import preview_text
from nexa.runs.store import RunStore

HEAVY = {"torch", "transformers", "numpy", "textual", "rich"}


def run_command(capsys: pytest.CaptureFixture[str], line: str, *, exit_code: int = 0) -> str:
    """Run one command line in this process and return what it printed."""
    code = main(shlex.split(line))
    captured = capsys.readouterr()
    assert code == exit_code, captured.out + captured.err
    return captured.out + captured.err


def test_explain_shows_exact_commands(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run_command(capsys, "launch recipe.yaml --explain")
    assert f"-m nexa.supervisor --detach {project}/runs/RUN_ID 1" in text
    assert f"-m nexa.worker {project}/runs/RUN_ID 1" in text
    assert "3 steps" in text
    assert list(project.iterdir()) == [project / "recipe.yaml"]


def test_what_is_not_plainly_honoured_is_a_table(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="the backend that is asked needs it")
    model = "model.name=llama model.tokenizer=bytes model.d_model=32 model.n_layers=1 model.n_heads=2"
    text = run_command(capsys, f"launch recipe.yaml --explain backend=torch training.precision=bf16 {model}")
    table = text.partition("Settings that backend 'torch' does not plainly honour\n")[2].splitlines()
    assert table[0].split()[:4] == ["training.precision", "=", "bf16", "translated"]
    assert table[0].endswith("torch.autocast(bfloat16), weights and optimizer in fp32")
    assert table[1].split()[:4] == ["distributed.strategy", "=", "auto", "translated"]
    assert table[2].startswith("  refused here, and not set: ")
    assert "rollouts.*" in text
    assert "rollouts.rewards" not in text


def test_explain_as_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run_command(capsys, "launch recipe.yaml --explain --json"))
    assert document["recipe"]["method"] == "sft"
    assert document["worker_argv"][-2:] == [f"{project}/runs/RUN_ID", "1"]
    assert document["submission"]["argv"]


@pytest.mark.parametrize("shape", ["--dry-run", "--dry-run true", "--dry-run=true"])
def test_dry_run(project: Path, capsys: pytest.CaptureFixture[str], shape: str) -> None:
    text = run_command(capsys, f"launch {shape} recipe.yaml")
    assert "<user>hi␛[31m<assistant>⟦arr<end>⟧" in text
    assert "7 documents, 35 tokens, 14 trained (40%), 3 steps" in text
    assert "Warning: short␇" in text
    assert list(project.iterdir()) == [project / "recipe.yaml"]


def test_dry_run_as_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run_command(capsys, "launch recipe.yaml --dry-run --json"))
    assert document["preview"]["rows"][0][3] == {"id": 3, "text": "arr", "trained": True, "document": 0}


def test_dry_run_of_bad_data(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run_command(capsys, "launch recipe.yaml --dry-run meta.bad_data=true", exit_code=2)
    assert "rows.jsonl:3" in text
    assert list(project.iterdir()) == [project / "recipe.yaml"]


def test_dry_run_false_launches(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(capsys, "launch recipe.yaml --dry-run false --detach")
    assert len(RunStore(project / "runs").list()) == 1


def test_marks_on_a_terminal_are_colour_and_underline() -> None:
    row = [PreviewToken(id=1, text="a", trained=False), PreviewToken(id=2, text="b", trained=True)]
    preview = Preview(rows=[row], documents=1, tokens=2, trained_tokens=1, total_steps=1)
    assert "a\x1b[32;4mb\x1b[0m" in preview_text(preview, colour=True)
    assert "\x1b" not in preview_text(preview, colour=False)


def test_long_rows_are_cut() -> None:
    row = [PreviewToken(id=1, text="x", trained=False)] * 1000
    preview = Preview(rows=[row] * 9, documents=9, tokens=9000, trained_tokens=0, total_steps=1)
    text = preview_text(preview, colour=False)
    assert "… 600 more" in text
    assert "7 more rows" in text


def test_flags_and_overrides(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "launch recipe.yaml optimizer.lr=1e-5 --run-name trial --microbatch 4 --global-batch 8 --explain --json"
    document = json.loads(run_command(capsys, line))
    assert document["recipe"]["run"]["name"] == "trial"
    assert document["recipe"]["optimizer"]["lr"] == 1e-5
    assert document["batch"]["accumulation_steps"] == 2


def test_follow_ends_with_the_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run_command(capsys, "launch recipe.yaml --json --follow"))
    assert document["state"] == "completed"
    failed = json.loads(run_command(capsys, "launch recipe.yaml meta.fails=true --json --follow", exit_code=1))
    assert failed["state"] == "failed"
    assert "not a number" in failed["reason"]


def test_detached_launch_says_how_to_go_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run_command(capsys, "launch recipe.yaml")
    (run,) = RunStore(project / "runs").list()
    assert f"nexa stop {run.run_id}" in text


def loaded_modules(project: Path, *arguments: str) -> set[Any]:
    """Top-level modules that a command has imported at its end."""
    program = (
        "import sys\nfrom nexa.cli.main import main\n"
        f"assert main({list(arguments)!r}) == 0\n"
        "print('|'.join({name.partition('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=project, check=True, capture_output=True, text=True)
    return set(result.stdout.splitlines()[-1].split("|"))


def test_explain_imports_nothing_heavy(project: Path) -> None:
    assert not loaded_modules(project, "launch", "recipe.yaml", "--explain") & HEAVY


def test_a_detached_launch_imports_nothing_heavy(project: Path) -> None:
    assert not loaded_modules(project, "launch", "recipe.yaml", "--detach") & HEAVY
