"""Runs over several nodes, and what their probes find."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from workspace import events, status, wait

from nexa.runs.actions import submit_attempt
from nexa.runs.state import State
from nexa.runs.store import Run
from nexa_slurm.scheduler import SlurmScheduler
from nexa_slurm.submission import BATCH_SCRIPT


def test_a_missing_python_is_named_with_its_node(runs, tmp_path):
    run = runs.make(steps=3)
    plan = json.loads((run.path / "plan.json").read_text())
    plan["launch"]["python"] = str(tmp_path / "absent" / "python")
    (run.path / "plan.json").write_text(json.dumps(plan))
    status = runs.await_end(runs.start(run))
    assert status.state is State.FAILED
    assert "absent/python can't be started" in status.reason
    assert "node n" in status.reason


def test_a_supervisors_python_that_is_not_there_is_named(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent" / "python"))
    run = runs.launch(steps=3)
    monkeypatch.undo()
    status = runs.await_end(run)
    assert status.state is State.FAILED
    assert "no such Python" in status.reason
    log = (run.path / "logs" / "1-supervisor.log").read_text()
    assert f"there is no Python {tmp_path}/absent/python here" in log


def test_a_run_folder_that_a_node_can_not_see_is_named(runs):
    run = runs.make(steps=3)
    attempt, submission = runs.prepare(run)
    hidden = run.path.with_name("hidden")
    words = [word.replace("/logs/", "/nowhere/") if word.startswith("--output") else word for word in submission.argv]
    submit_attempt(run, attempt, SlurmScheduler(), type(submission)(argv=words, script=submission.script))
    status = runs.await_end(run)
    assert status.state is State.FAILED
    assert "can't write to the run folder" in status.reason
    assert "NEXA_RUNS_DIR" in status.reason
    assert not hidden.exists()


def test_a_node_that_can_not_write_is_named(runs):
    run = runs.make(nodes=2, steps=3)
    # In place of the folder that the nodes report in, so that a report fails.
    attempt, submission = runs.prepare(run)
    (run.path / "attempts" / "1" / "nodes").write_text("")
    submit_attempt(run, attempt, SlurmScheduler(), submission)
    status = runs.await_end(run)
    assert status.state is State.FAILED
    assert "node n" in status.reason
    assert "can't be written" in status.reason


def test_a_node_that_does_not_start_is_named_in_time(runs, tmp_path):
    python = tmp_path / "python"
    hang = '[ "$SLURM_PROCID" = 1 ] && [ "$2" = nexa_slurm.node ] && exec sleep 1000'
    python.write_text(f'#!/bin/sh\n{hang}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    run = runs.launch(nodes=2, slurm={"python": str(python), "node_start_seconds": 4}, steps=3)
    status = runs.await_end(run)
    assert status.state is State.FAILED
    assert "no sign of n" in status.reason
    assert "slurm.node_start_seconds" in status.reason
    (joined,) = (json.loads(path.read_text())["node"] for path in (run.attempts[0].path / "nodes").iterdir())
    assert joined not in status.reason


def test_modules_commands_and_environment_reach_the_workers(runs, tmp_path):
    modules = tmp_path / "modules.sh"
    modules.write_text('module() { export LOADED="${LOADED-}$2;"; }\n')
    slurm = {
        "modules": ["cuda/12.4", "gcc/13"],
        "pre_commands": [f'export ANSWER="$(cat {tmp_path}/answer)"'],
        "environment": {"FROM_RECIPE": "a b;c"},
    }
    (tmp_path / "answer").write_text("forty two")
    slurm["pre_commands"].insert(0, 'test -n "$LOADED"')
    os.environ["BASH_ENV"] = str(modules)
    try:
        run = runs.launch(slurm=slurm, steps=10_000, step_seconds=0.05)
    finally:
        del os.environ["BASH_ENV"]
    runs.await_step(run, 1)
    pid = run.attempts[0].read("workers/0")["pid"]
    variables = dict(line.partition(b"=")[::2] for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    assert variables[b"LOADED"] == b"cuda/12.4;gcc/13;"
    assert variables[b"ANSWER"] == b"forty two"
    assert variables[b"FROM_RECIPE"] == b"a b;c"
    os.kill(pid, signal.SIGTERM)
    assert runs.await_end(run).state is State.STOPPED


def test_a_failing_command_before_the_workers_is_named(runs):
    run = runs.launch(slurm={"pre_commands": ["true", "test -e /absent"]}, steps=3)
    status = runs.await_end(run)
    assert status.state is State.FAILED
    assert "pre_commands failed" in status.reason
    assert "test -e /absent" in (run.path / "logs" / "1-supervisor.log").read_text()


def apptainer(folder: Path, image: str) -> Path:
    """A stand-in for Apptainer that notes its words, lets in the variables it would and runs the rest; its folder.

    The tests of containers use a real runtime.
    """
    program = folder / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" > {folder}/words\n'
        'for name in ${!APPTAINERENV_*}; do export "${name#APPTAINERENV_}=${!name}"; done\n'
        f'while [ "$1" != {image} ]; do shift; done\nshift\nexec "$@"\n'
    )
    program.chmod(0o755)
    return program.parent


def test_a_container_holds_the_workers(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{apptainer(tmp_path, 'image.sif')}:{os.environ['PATH']}")
    container = {
        "image": "image.sif",
        "mounts": ["/data:/data:ro"],
        "python": sys.executable,
        "options": ["--cleanenv"],
    }
    run = runs.launch(slurm={"container": {"runtime": "apptainer", **container}}, steps=3)
    assert runs.await_end(run).state is State.COMPLETED
    words = (tmp_path / "words").read_text().splitlines()
    binds = [words[i + 1] for i, word in enumerate(words) if word == "--bind"]
    assert binds == [str(run.path), str(tmp_path / "artifacts"), "/data:/data:ro"]
    assert words[words.index("image.sif") - 1] == "--cleanenv"


def test_a_container_of_the_section_environment_holds_the_workers(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{apptainer(tmp_path, 'image.sif')}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_TOKEN", "hf_neverinacommand")
    container = {
        "runtime": "apptainer",
        "image": "image.sif",
        "mounts": ["/data:/data:ro"],
        "gpus": 0,
        "shm_bytes": 0,
        "options": ["--fakeroot"],
    }
    run = runs.launch(launch={"container": container}, steps=3)
    assert runs.await_end(run).state is State.COMPLETED
    words = (tmp_path / "words").read_text().splitlines()
    assert [word for word in words if word.startswith("--bind=")] == [
        f"--bind={run.path}:{run.path}:rw",
        "--bind=/data:/data:ro",
    ]
    assert {"--cleanenv", "--contain", "--fakeroot"} < set(words)
    assert "hf_neverinacommand" not in "".join(words)


def test_one_task_of_an_array_is_cancelled_alone(runs):
    members = [runs.make(f"member{index}", steps=120, step_seconds=0.05) for index in range(3)]
    for member in members:
        member.create_attempt(1, resume_from=None, reason="launched")
    listing = members[0].path.parent / "members.json"
    listing.write_text(json.dumps([[str(member.path), 1] for member in members]))
    words = [
        "sbatch",
        "--parsable",
        "--array=0-2",
        "--requeue",
        f"--output={listing.parent}/%a.log",
        "--open-mode=append",
    ]
    array = runs.slurm(*words, str(BATCH_SCRIPT), sys.executable, str(listing), "1").strip()
    for member in members:
        runs.await_step(member, 3)
    assert runs.job_id(members[1]) == f"{array}_1"
    runs.slurm("scancel", runs.job_id(members[0]))
    runs.slurm("scancel", "--batch", "--signal=USR1", runs.job_id(members[2]))
    assert runs.await_end(members[0]).state is State.STOPPED
    assert runs.await_end(members[1]).state is State.COMPLETED
    assert runs.await_end(members[2]).state is State.COMPLETED
    assert [len(member.attempts) for member in members] == [1, 1, 2]
    assert Run(members[2].path).attempts[1].read("job")["job_id"] == f"{array}_2"


def test_the_status_of_a_run_is_that_of_a_local_one(workspace):
    run = workspace.launch("echo.yaml", "--scheduler", "slurm", "training.max_steps=5", **workspace.echo_variables())
    assert wait(run).state is State.COMPLETED
    seen = status(run)
    assert (seen.step, seen.total_steps, seen.exit_code) == (5, 5, 0)
    shown = workspace.nexa("show", "latest", **workspace.echo_variables())
    assert "on slurm" in shown.out


def test_every_node_works_in_the_same_environment(workspace):
    variables = {**workspace.echo_variables(), "NEXA_ENVIRONMENTS_DIR": str(workspace.folder / "environments")}
    made = workspace.nexa("env", "create", "echo", "--builder", "uv", "--json", **variables)
    assert made.exit_code == 0, made.err
    words = ("echo.yaml", "--scheduler", "slurm", "environment=echo", "training.max_steps=3", "echo.delay_seconds=0")
    members = [workspace.launch(*words, f"slurm.options=[--nodelist={node}]", **variables) for node in ("n1", "n2")]
    assert [wait(run).state for run in members] == [State.COMPLETED] * 2
    starts = [events(run, "start")[0] for run in members]
    assert [start["environment"]["digest"] for start in starts] == [made.json["digest"]] * 2
    recorded = [json.loads((run / "attempts" / "1" / "environment.json").read_text()) for run in members]
    assert [each["executable"] for each in recorded] == [made.json["environment"]["path"] + "/bin/python"] * 2
    assert recorded[0]["hash"] == recorded[1]["hash"]
    assert [each["variables"]["SLURM_JOB_NODELIST"] for each in recorded] == ["n1", "n2"]
