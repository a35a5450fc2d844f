"""A third-party package, installed by pip, adds plugins of every kind with no change to the core."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

pytest.importorskip("hatchling", reason="pip builds the package with it: pip install -e '.[dev]'")


@pytest.fixture(scope="module")
def installed(pytestconfig, tmp_path_factory):
    """A folder that pip installed nexa-echo into, built from a copy of its sources."""
    folder = tmp_path_factory.mktemp("echo")
    source = folder / "source"
    shutil.copytree(pytestconfig.rootpath / "tests" / "packages" / "nexa-echo", source)
    target = folder / "site"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return target, source


def run(installed, *command, cwd):
    """Run Python with nexa-echo installed."""
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(installed[0]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_listed(installed, tmp_path):
    answer = run(installed, "-m", "nexa.cli.main", "plugins", "nexa-echo", "--json", cwd=tmp_path)
    entries = json.loads(answer.stdout)
    assert {(entry["kind"], entry["name"], entry["status"]) for entry in entries} == {
        ("backend", "echo", "ok"),
        ("task", "parity", "ok"),
        ("scheduler", "echo-detached", "ok"),
        ("distiller", "echo-counts", "ok"),
        ("observer", "echo-log", "ok"),
        ("reward", "echo-words", "ok"),
    }
    assert {(entry["distribution"], entry["version"]) for entry in entries} == {("nexa-echo", "0.1.0")}


def test_its_contract_tests_pass(installed, tmp_path):
    tests = str(installed[1] / "tests")
    options = ["-q", "-rs", "-p", "no:cacheprovider", "--rootdir", tests]
    answer = run(installed, "-m", "pytest", *options, tests, cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout[-5000:]
    skips = [line for line in answer.stdout.splitlines() if line.startswith("SKIPPED")]
    assert [line for line in skips if "does not declare the capability" not in line] == []


def test_its_recipe_is_launched_with_its_backend_scheduler_and_observer(installed, tmp_path):
    launched = run(installed, "-m", "nexa.cli.main", "launch", "echo", "training.max_steps=20", "--json", cwd=tmp_path)
    assert launched.returncode == 0, launched.stderr
    (run_dir,) = (tmp_path / "runs").iterdir()
    deadline = time.monotonic() + 60
    while not (ended := run_dir / "attempts" / "1" / "exit.json").exists():
        assert time.monotonic() < deadline, "the run did not end"
        time.sleep(0.05)
    assert json.loads(ended.read_text())["exit_code"] == 0
    assert len((run_dir / "echo.log").read_text().splitlines()) == 20
    name = f"checkpoints/{run_dir.name}/step-00000020"
    verified = run(installed, "-m", "nexa.cli.main", "artifacts", "verify", name, cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr


def test_its_task_is_trained_by_the_torch_backend(installed, tmp_path):
    recipe = tmp_path / "parity.yaml"
    recipe.write_text(
        "method: parity\nmodel: {name: parity-net}\n"
        "data: {remote_uri: 'synthetic:parity', validation: {fraction: 0.25}}\n"
        "training: {max_steps: 20, microbatch_size_per_gpu: 16}\noptimizer: {lr: 0.01}\nparity: {width: 16}\n"
    )
    launched = run(installed, "-m", "nexa.cli.main", "launch", str(recipe), "--json", "--follow", cwd=tmp_path)
    assert launched.returncode == 0, launched.stderr
    status = json.loads(launched.stdout)
    assert (status["state"], status["step"]) == ("completed", 20)
    assert {"eval_loss", "eval_accuracy", "accuracy"} <= set(status["metrics"])
    scheduled = ("-m", "nexa.cli.main", "launch", str(recipe), "optimizer.scheduler=linear", "--explain")
    refused = run(installed, *scheduled, cwd=tmp_path)
    assert refused.returncode == 2
    assert "task parity does not heed it" in refused.stderr


def test_its_options_are_checked(installed, tmp_path):
    answer = run(installed, "-m", "nexa.cli.main", "launch", "echo", "echo.delay=1", cwd=tmp_path)
    assert answer.returncode == 2
    assert "delay_seconds" in answer.stderr
