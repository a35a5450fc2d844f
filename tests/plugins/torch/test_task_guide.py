"""The code of docs/how-to/write-a-task.md works: as a script, and as a plugin whose recipe is launched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "write-a-task.md"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's files, registered as pip would."""
    folder = tmp_path_factory.mktemp("guide")
    text = GUIDE.read_text(encoding="utf-8")
    for name, code in re.findall(
        r"^`([\w/]+\.\w+)`(?:(?!```).)*?```\w+\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code, encoding="utf-8")
    info = folder / "nexa_line-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-line\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[nexa]\nline = nexa_line.plugin\n")
    return folder


def run(package: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=package, capture_output=True, text=True, check=False
    )


def test_the_script_trains(package: Path) -> None:
    answer = run(package, "train_line.py")
    assert answer.returncode == 0, answer.stderr
    state, step, loss = answer.stdout.splitlines()[-1].split()
    assert (state, int(step)) == ("completed", 200)
    assert float(loss) < 0.5
    assert answer.stdout.startswith("epoch 1  step 10/200")
    assert list((package / "line-checkpoints" / "checkpoints" / "run").iterdir())


def test_the_recipe_is_launched_on_two_processes(package: Path) -> None:
    options = ["cluster.processes_per_node=2", "training.global_batch_size=32", "--json", "--follow"]
    answer = run(package, "-m", "nexa.cli.main", "launch", "line.yaml", *options)
    assert answer.returncode == 0, answer.stderr
    status = json.loads(answer.stdout)
    assert (status["state"], status["step"]) == ("completed", 100)


def test_a_key_the_task_does_not_heed_is_refused(package: Path) -> None:
    for key in ("optimizer.scheduler=linear", "model.d_model=64", "samples.prompts=[hello]"):
        answer = run(package, "-m", "nexa.cli.main", "launch", "line.yaml", key, "--explain")
        assert answer.returncode == 2, key
        assert "task line" in answer.stderr or "architecture" in answer.stderr


def test_its_contract_tests_pass(package: Path) -> None:
    answer = run(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(package), "tests")
    assert answer.returncode == 0, answer.stdout[-3000:]
