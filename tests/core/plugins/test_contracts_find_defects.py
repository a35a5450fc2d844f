"""The contract tests are worth passing: each defect planted into nexa-echo fails the test meant for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

DEFECTS = [
    (
        "a setting without an answer",
        "backend.py",
        "recipe.leaf_paths()]",
        "recipe.leaf_paths()[1:]]",
        "test_settings_answers_every_field_once",
    ),
    (
        "a plan that writes a file",
        "backend.py",
        "        return LaunchSpec(",
        '        Path("planned").write_text("x")\n        return LaunchSpec(',
        "test_plan_is_pure",
    ),
    (
        "a heavy import while planning",
        "backend.py",
        "        return LaunchSpec(",
        "        import numpy\n        return LaunchSpec(",
        "test_planning_imports_nothing_heavy",
    ),
    (
        "a check that trips over a missing file",
        "backend.py",
        "        problems = []\n",
        "        problems = []\n        Path(recipe.data.remote_uri).read_bytes()\n",
        "test_check_returns_problems_instead_of_raising",
    ),
    (
        "a resume that begins anew",
        "backend.py",
        "ByteCounts.load(context.resume_from) if context.resume_from else",
        "None if False else",
        "test_a_resumed_run_continues_where_it_stopped",
    ),
    (
        "checkpoints at the wrong steps",
        "backend.py",
        "if save_every and step % save_every == 0",
        "if step == 1",
        "test_checkpoints_are_whole_artifacts",
    ),
    (
        "a setting that is accepted and ignored",
        "backend.py",
        "if path in _READ or path in CORE_FIELDS:",
        'if path in _READ or path in CORE_FIELDS or path == "optimizer.lr":',
        "test_no_setting_is_ignored",
    ),
    (
        "a loss that depends on more than the checkpoint",
        "backend.py",
        "loss = model.loss(batch)",
        "loss = model.loss(batch) + (1e-9 if context.resume_from else 0.0)",
        "test_it_conforms[resume]",
    ),
    (
        "an event without one of its fields",
        "backend.py",
        'phase="training", step=step, total_steps=total',
        "step=step, total_steps=total",
        "test_it_conforms[events]",
    ),
    (
        "an option without a description",
        "options.py",
        '    """Seconds to wait in every step, to watch a run at leisure."""\n',
        "",
        "test_its_options_are_documented",
    ),
    (
        "an observer that changes records",
        "observer.py",
        "        if self._file is not None and record",
        '        record.pop("ts")\n        if self._file is not None and record',
        "test_it_leaves_the_record_as_it_is",
    ),
    (
        "an observer that trips over null",
        "observer.py",
        "{name}={value}",
        "{name}={value:.3f}",
        "test_it_takes_every_event",
    ),
    (
        "a capture that depends on the time",
        "distiller.py",
        '{"likeliest": ',
        '{"at": __import__("time").time_ns(), "likeliest": ',
        "test_capture_is_reproducible",
    ),
    (
        "an unknown job that is called running",
        "scheduler.py",
        "else JobState.UNKNOWN",
        "else JobState.RUNNING",
        "test_status_answers_in_order_and_for_unknown_jobs",
    ),
    (
        "a job that dies with its submitter",
        "scheduler.py",
        "        details = {**",
        "        __import__('atexit').register(process.kill)\n        details = {**",
        "test_a_job_outlives_the_process_that_submitted_it",
    ),
]


@pytest.fixture
def echo(pytestconfig, tmp_path):
    """The sources of nexa-echo in a folder of their own, registered as an installer would."""
    package = pytestconfig.rootpath / "tests" / "packages" / "nexa-echo"
    shutil.copytree(package / "src" / "nexa_echo", tmp_path / "nexa_echo")
    shutil.copytree(package / "tests", tmp_path / "tests")
    info = tmp_path / "nexa_echo-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-echo\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[nexa]\necho = nexa_echo.plugin\n")
    return tmp_path


def run_contract(folder, test):
    """Run one contract test of the package in `folder`."""
    tests = folder / "tests" / "test_contracts.py"
    # Jobs of this package start at once, so a test that waits for one may give up early.
    tests.write_text(tests.read_text().replace('"echo-detached"', '"echo-detached"\n    start_timeout_s = 8.0'))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "-k", test]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [*command, str(tests)], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(("name", "file", "sound", "defect", "test"), DEFECTS, ids=[row[0] for row in DEFECTS])
def test_a_planted_defect_is_found(echo, name, file, sound, defect, test):
    path = echo / "nexa_echo" / file
    text = path.read_text()
    assert text.count(sound) == 1, f"{sound!r} must stand once in {file}"
    path.write_text(text.replace(sound, defect))
    answer = run_contract(echo, test)
    assert answer.returncode == 1, answer.stdout
    assert re.search(rf"^(FAILED|ERROR) .*{re.escape(test)}", answer.stdout, flags=re.MULTILINE), answer.stdout
