"""Real runs of nexa-echo in environments without any of Nexa's own libraries, on every Python that is here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from environment_kit import Nexa

from nexa.environments.interpreters import look_at

_OWN = f"3.{sys.version_info[1]}"


def _pythons() -> dict[str, Path]:
    """One interpreter of each minor version on this machine."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = {}
    for minor in range(8, 16):
        version = f"3.{minor}"
        places = [*sorted(pyenv.glob(f"{version}.*/bin/python{version}")), shutil.which(f"python{version}")]
        working = next((Path(place) for place in places if place and look_at(Path(place))), None)
        if working is not None:
            found[version] = working
    return found


PYTHONS = _pythons()
SUPPORTED = [version for version in PYTHONS if int(version[2:]) >= 10]
TOO_OLD = [version for version in PYTHONS if int(version[2:]) < 10]


def launch(nexa: Nexa, environment: str, *overrides: str, **variables: str) -> dict:
    """Run the recipe to its end; return what `nexa launch --json` says, with the run's folder."""
    words = ["launch", "echo.yaml", f"environment={environment}", "scheduler=local", *overrides]
    answer = nexa(*words, "--follow", "--json", **variables)
    assert answer.stdout, answer.stderr
    return json.loads(answer.stdout)


def venv(python: Path, folder: Path) -> Path:
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    return folder


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_worker_needs_the_standard_library_alone(nexa, version):
    folder = venv(PYTHONS[version], nexa.folder / "bare")
    # A file beside the recipe must not shadow the standard library's module.
    (nexa.folder / "json.py").write_text("raise ImportError('the wrong json')\n")
    status = launch(nexa, str(folder))
    run = Path(status["path"])
    assert status["state"] == "completed", (run / "logs" / "1-supervisor.log").read_text()
    start = json.loads((run / "events" / "1-0.jsonl").read_text().splitlines()[0])
    assert start["type"] == "start"
    assert start["python"].startswith(f"{version}.")
    assert start["environment"]["kind"] == "path"
    environment = json.loads((run / "attempts" / "1" / "environment.json").read_text())
    assert set(environment["packages"]) <= {"nexa-train", "nexa-echo", "pip", "setuptools"}
    assert len(environment["hash"]) == 64
    # The observer ran there too, and a checkpoint was committed with the environment in its manifest.
    assert (run / "echo.log").is_file()
    (manifest,) = (nexa.folder / "artifacts").glob("checkpoints/*/step-00000100/manifest.json")
    assert json.loads(manifest.read_text())["lineage"]["environment"]["hash"] == environment["hash"]


_READ_BY_WORKERS = """
import ast, importlib, pkgutil, sys
import nexa.worker
names = [module.name for module in pkgutil.walk_packages(nexa.worker.__path__, "nexa.worker.")]
names += ["nexa.errors", "nexa.specs", "nexa.events.writer", "nexa.artifacts", "nexa.backend", "nexa_file.store"]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
files = {module.__file__ for name, module in sys.modules.items() if name.startswith(("nexa.", "nexa_file."))}
for path in sorted(filter(None, files)):
    with open(path, encoding="utf-8") as file:
        ast.parse(file.read(), path, feature_version=(3, 10))
"""


@pytest.mark.parametrize("version", sorted({_OWN, *SUPPORTED[:1], *SUPPORTED[-1:]}))
def test_what_workers_read_is_of_the_oldest_grammar_and_free_of_deprecations(version):
    roots = [str(Path(find_spec(name).origin).parents[1]) for name in ("nexa", "nexa_file")]
    answer = subprocess.run(
        [PYTHONS[version], "-W", "error", "-c", _READ_BY_WORKERS],
        env={"PYTHONPATH": os.pathsep.join(roots), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.skipif(not TOO_OLD, reason="there is no Python older than 3.10 here")
def test_a_python_that_is_too_old_is_told_so(nexa):
    folder = venv(PYTHONS[TOO_OLD[-1]], nexa.folder / "old")
    status = launch(nexa, str(folder))
    assert status["state"] == "failed"
    assert f"is Python {TOO_OLD[-1]}; a worker needs 3.10 or newer" in status["reason"]


@pytest.fixture
def created(nexa, wheels) -> Nexa:
    """nexa with an environment called trial, which has tiny."""
    answer = nexa(
        "env", "create", "echo", "--name", "trial", "--with", "tiny", "--find-links", str(wheels), "--no-index",
        "--builder", "uv",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return nexa


def test_a_created_environment_from_end_to_end(created):
    nexa = created
    listed = json.loads(nexa("env", "list", "--json").stdout)
    assert [(each["name"], each["backend"], each["state"]) for each in listed] == [("trial", "echo", "ready")]
    status = launch(nexa, "trial")
    assert status["state"] == "completed"
    plan = json.loads((Path(status["path"]) / "plan.json").read_text())
    assert plan["launch"]["environment"]["digest"] == listed[0]["digest"]
    environment = json.loads((Path(status["path"]) / "attempts" / "1" / "environment.json").read_text())
    assert environment["packages"]["tiny"] == "2.0"
    assert environment["place"]["digest"] == listed[0]["digest"]
    # Stopped and resumed there, as anywhere.
    begun = json.loads(
        nexa(
            "launch",
            "echo.yaml",
            "environment=trial",
            "scheduler=local",
            "echo.delay_seconds=0.2",
            "--detach",
            "--json",
        ).stdout
    )
    stopped = nexa("stop", "--wait", begun["run_id"])
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped at step" in stopped.stdout
    # Changed by hand: found.
    module = next((nexa.folder / "environments" / "envs").glob("*/lib/python3*/site-packages/tiny.py"))
    module.write_text("version = 'mine'\n")
    answer = nexa("env", "verify")
    assert answer.returncode == 1
    assert "tiny: tiny.py was changed" in answer.stdout
    assert nexa("env", "remove", "trial").returncode == 0
    assert "there is no environment 'trial'" in nexa("env", "show", "trial").stderr
    assert not list((nexa.folder / "environments" / "envs").iterdir())


def test_what_stops_a_launch_is_one_clear_message(nexa):
    def refused(*overrides: str) -> str:
        answer = nexa("launch", "echo.yaml", "scheduler=local", *overrides)
        assert answer.returncode == 2, answer.stderr
        assert "Traceback" not in answer.stderr
        return answer.stderr

    assert "there is no environment 'absent'" in refused("environment=absent")
    assert "there is no environment /absent" in refused("environment=/absent")
    assert "leave out container or name" in refused("environment.name=current", "environment.container=image")
    assert "this machine has no apptainer" in refused("environment.container=image.sif")
    assert not (nexa.folder / "runs").exists()
    assert nexa("env", "create", "absent").returncode == 2
    assert nexa("env", "create", "echo", "--with", "two words").returncode == 2


def test_a_missing_module_is_named_before_anything_is_imported(nexa):
    folder = venv(PYTHONS[_OWN], nexa.folder / "bare")
    begun = json.loads(
        nexa("launch", "echo.yaml", f"environment={folder}", "scheduler=local", "--follow", "--json").stdout
    )
    run = Path(begun["path"])
    plan = json.loads((run / "plan.json").read_text())
    plan["launch"]["probes"] = ["json", "no_such_module"]
    (run / "plan.json").write_text(json.dumps(plan))
    command = [folder / "bin" / "python", Path(plan["launch"]["code"]) / "nexa/worker/start.py", "nexa.worker"]
    answer = subprocess.run([*command, run, "1"], capture_output=True, text=True)
    assert answer.returncode == 2
    error = json.loads((run / "attempts" / "1" / "error.json").read_text())
    assert error["message"] == f"the environment {folder} lacks no_such_module, which backend echo needs"
    # Another Nexa than the one that planned.
    plan["launch"]["probes"] = []
    plan["nexa_version"] = "9.9"
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "attempts" / "1" / "error.json").unlink()
    assert subprocess.run([*command, run, "1"], capture_output=True, text=True).returncode == 1
    error = json.loads((run / "attempts" / "1" / "error.json").read_text())
    assert error["message"].startswith("the run was planned by Nexa 9.9, the worker found Nexa ")


def test_what_a_run_needs_stays_and_a_resume_without_it_is_refused(created):
    nexa = created
    words = ("launch", "echo.yaml", "environment=trial", "scheduler=local", "echo.delay_seconds=0.2")
    begun = json.loads(nexa(*words, "--detach", "--json").stdout)
    run, root = begun["run_id"], nexa.folder / "environments"
    (code,), (claim,) = (root / "code").iterdir(), (root / "runs").iterdir()

    def doctor(*options: str) -> str:
        """What `nexa env doctor` says where nothing is young."""
        for path in (code, claim):
            if path.exists():
                os.utime(path, (0, 0))
        return nexa("env", "doctor", *options).stdout

    answer = nexa("env", "remove", "trial")
    assert (answer.returncode, f"{run} may be working in the environment trial" in answer.stderr) == (2, True)
    assert nexa("stop", "--wait", run).returncode == 0
    assert code.name[:12] not in doctor("--clean")
    # What is missing is named.
    code.rename(code.with_name("away"))
    answer = nexa("resume", run)
    assert (answer.returncode, "the workers' code that the run was planned with is gone" in answer.stderr) == (2, True)
    code.with_name("away").rename(code)
    assert nexa("env", "remove", "trial").returncode == 0
    answer = nexa("resume", run)
    assert (answer.returncode, "the environment trial" in answer.stderr) == (2, True)
    # Nobody needs it any more; the claim is collected with it.
    shutil.rmtree(begun["path"])
    assert f"{code.name[:12]}: workers' code that no run needs any more; --clean removes it" in doctor()
    assert code.is_dir()
    assert f"{code.name[:12]}: workers' code that no run needs any more; removed" in doctor("--clean")
    assert not code.exists()
    assert not claim.exists()
