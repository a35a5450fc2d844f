"""`nexa doctor`: findings about this machine, also when something is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from nexa import doctor


def run_doctor(*arguments, cwd, **variables):
    return subprocess.run(
        [sys.executable, "-m", "nexa.cli.main", "doctor", *arguments],
        env={**os.environ, **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def findings(answer):
    document = json.loads(answer.stdout)
    return {finding["name"]: finding for finding in document["findings"]}


@pytest.fixture
def broken_torch(tmp_path):
    """A folder whose torch fails to import."""
    package = tmp_path / "site" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libtorch.so: wrong ELF class')")
    return str(package.parent)


def test_this_machine_is_described(tmp_path):
    pytest.importorskip("torch")
    answer = run_doctor("--json", cwd=tmp_path)
    found = findings(answer)
    assert set(found) >= {"python", "nexa", "torch", "[torch]", "cpu", "memory", "runs", "store", "slurm"}
    assert found["torch"]["status"] == "ok"
    assert "CPU" in found["torch"]["detail"]
    assert str(tmp_path / "runs") in found["runs"]["detail"]
    assert answer.returncode == (0 if json.loads(answer.stdout)["ok"] else 1)


def test_a_broken_torch_is_a_finding(tmp_path, broken_torch):
    pytest.importorskip("torch")
    answer = run_doctor(cwd=tmp_path, PYTHONPATH=broken_torch)
    assert answer.returncode == 1
    assert "can't be imported: ImportError: libtorch.so: wrong ELF class" in answer.stdout
    assert "pip install" in answer.stdout
    assert "Traceback" not in answer.stdout + answer.stderr


def test_a_hanging_torch_is_a_finding(tmp_path, broken_torch, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "site" / "torch" / "__init__.py").write_text("import time\ntime.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", broken_torch)
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.5)
    finding = doctor._torch()
    assert finding.status == "missing"
    assert "took over 0.5 s" in finding.detail


def test_missing_extras_say_what_to_type(monkeypatch):
    monkeypatch.setattr(doctor, "_is_installed", lambda package: package not in ("torch", "wandb"))
    found = {finding.name: finding for finding in doctor._extras()}
    assert (found["[torch]"].status, found["[torch]"].fix) == ("missing", "pip install 'nexa-train[torch]'")
    assert (found["[track]"].status, found["[track]"].fix) == ("ok", "pip install 'nexa-train[track]'")
    assert found["[track]"].detail == "not installed, optional: wandb"


def test_a_folder_that_can_not_be_written_is_missing(tmp_path, broken_torch):
    (tmp_path / "file").write_text("")
    answer = run_doctor("--json", cwd=tmp_path, PYTHONPATH=broken_torch, NEXA_RUNS_DIR=str(tmp_path / "file" / "runs"))
    found = findings(answer)["runs"]
    assert found["status"] == "missing"
    assert "NEXA_RUNS_DIR" in found["fix"]
    assert answer.returncode == 1


def test_a_broken_settings_file_is_a_finding(tmp_path, broken_torch):
    (tmp_path / "nexa.toml").write_text("runs_dirr = 3\n")
    answer = run_doctor("--json", cwd=tmp_path, PYTHONPATH=broken_torch)
    assert findings(answer)["settings"]["status"] == "missing"
    assert answer.returncode == 1


def test_a_broken_plugin_is_a_warning(tmp_path, broken_torch):
    site = tmp_path / "site"
    (site / "broken_plugin.py").write_text("raise RuntimeError('oops')")
    info = site / "nexa_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nexa]\nbroken = broken_plugin\n")
    found = findings(run_doctor("--json", cwd=tmp_path, PYTHONPATH=broken_torch))["plugins"]
    assert found["status"] == "warn"
    assert "RuntimeError: oops" in found["detail"]
    assert found["fix"] == "nexa plugins broken"
