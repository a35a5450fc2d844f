"""`nexa train`: an ordinary run in the command's own process, alone and under torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nexa.runs.actions import kill
from nexa.runs.state import RunStatus, State, run_status
from nexa.runs.store import Run, RunStore
from nexa.worker.processes import processes_of

NEXA = [sys.executable, "-m", "nexa"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "nexa"]
TASK = ["train", "--task", "regression", "regression.n_samples=128"]
ENDLESS = [*TASK, "--steps", "100000000", "--save-every", "1000000", "training.eval_every_epochs=null"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty current folder, and an end for every run that is left in it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("NEXA_RUNS_DIR", "NEXA_STORE_URI", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    for run in RunStore(Path("runs")).list():
        for pid in processes_of(run.path):
            os.kill(pid, signal.SIGKILL)


def nexa(*arguments: str, program: list[str] = NEXA) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run([*program, *arguments], capture_output=True, text=True, check=False, timeout=240)


def start(*arguments: str, program: list[str] = NEXA) -> subprocess.Popen[str]:
    """One command, which answers Ctrl-C whatever this process was started with."""
    return subprocess.Popen(
        [*program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """Wait until something is there; fails when the process ends before."""
    deadline = time.monotonic() + 120
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    return found


def latest() -> Run:
    """The newest run of this folder."""
    return RunStore(Path("runs")).open("latest")


def status() -> RunStatus:
    """Its status."""
    return run_status(latest())


def training(process: subprocess.Popen[str]) -> Run:
    """The newest run, once it has done some steps."""
    wait_for(lambda: RunStore(Path("runs")).list(), process)
    wait_for(lambda: status().state is State.RUNNING and (status().step or 0) > 20, process)
    return latest()


def losses(run: Run) -> dict[int, float]:
    """Loss by step, over all attempts."""
    found: dict[int, float] = {}
    for attempt in run.attempts:
        for line in attempt.events_path.read_text().splitlines():
            event = json.loads(line)
            if event["type"] == "metrics":
                found[event["step"]] = event["values"]["loss"]
    return found


def test_a_task_by_its_name() -> None:
    done = nexa(*TASK, "--epochs", "2", "--training-batch-size", "32", "--warmup", "1", "--log-every", "1")
    assert done.returncode == 0, done.stderr
    assert "evaluation: eval_loss" in done.stdout
    assert "completed at step 7" in done.stdout
    run = latest()
    assert (run.document["method"], run.document["scheduler"], status().state) == (
        "regression",
        "local",
        State.COMPLETED,
    )
    assert run.plan["recipe"]["training"]["microbatch_size_per_gpu"] == 32
    assert len(losses(run)) == 7
    assert (run.path / "logs" / "1-0.log").is_file()
    assert run.run_id in nexa("runs").stdout
    assert nexa("artifacts", "verify", str(status().checkpoint)).returncode == 0


def test_two_ranks_of_torchrun_are_one_run_and_equal_one_process() -> None:
    arguments = ["--steps", "6", "--warmup", "1", "--log-every", "1", "training.global_batch_size=32"]
    two = nexa(*TASK, "--training-microbatch-size-per-gpu", "16", *arguments, program=TORCHRUN)
    assert two.returncode == 0, two.stderr[-1200:]
    assert len(RunStore(Path("runs")).list()) == 1
    shared = latest()
    assert two.stdout.count("completed at step 6") == 1
    assert sorted(path.name for path in (shared.path / "logs").iterdir()) == ["1-0.log", "1-1.log"]
    assert sorted(shared.attempts[0].workers()) == [0, 1]
    assert shared.plan["resources"] == {"num_nodes": 1, "gpus_per_node": 0, "processes_per_node": 2}
    assert nexa(*TASK, "--training-microbatch-size-per-gpu", "32", *arguments).returncode == 0
    assert list(losses(shared).values()) == pytest.approx(list(losses(latest()).values()), rel=2e-5)


def test_ctrl_c_saves_and_resume_continues_exactly() -> None:
    process = start(*TASK, "--steps", "1200", "--log-every", "10", "training.eval_every_epochs=null")
    first = training(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Saving a checkpoint" in out
    assert status().state is State.STOPPED
    assert status().checkpoint is not None
    resumed = nexa("train", "--resume", first.run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert (len(first.attempts), status().state, status().step) == (2, State.COMPLETED, 1200)
    assert nexa(*TASK, "--steps", "1200", "--log-every", "10", "training.eval_every_epochs=null").returncode == 0
    undisturbed = losses(latest())
    assert undisturbed == {step: loss for step, loss in losses(first).items() if step in undisturbed}
    assert _hash(latest()) == _hash(first)


def _hash(run: Run) -> str:
    """SHA-256 of the weights in a run's last checkpoint."""
    manifest = json.loads((Path("artifacts") / str(run_status(run).checkpoint) / "manifest.json").read_text())
    return str(manifest["files"]["model.safetensors"])


def test_the_second_ctrl_c_ends_at_once() -> None:
    process = start(*ENDLESS)
    run = training(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    # Both reached it before its next step, or the first was answered before the second came.
    assert run_status(run).state in (State.KILLED, State.STOPPED)


def test_a_killed_command_is_lost_and_its_run_can_be_continued() -> None:
    process = start(*TASK, "--steps", "1200", "--save-every", "20", "training.eval_every_epochs=null")
    run = training(process)
    wait_for(lambda: status().checkpoint, process)
    process.kill()
    process.communicate(timeout=60)
    assert run_status(run).state is State.LOST
    resumed = nexa("train", "--resume", "latest")
    assert resumed.returncode == 0, resumed.stderr
    assert "continuing from" in resumed.stdout
    assert (status().state, status().step) == (State.COMPLETED, 1200)


def test_nexa_stop_and_nexa_kill_reach_it() -> None:
    process = start(*ENDLESS)
    training(process)
    assert nexa("stop", "latest").returncode == 0
    process.communicate(timeout=120)
    assert status().state is State.STOPPED
    process = start(*ENDLESS)
    run = training(process)
    kill(run)
    process.communicate(timeout=60)
    assert run_status(run).state is State.KILLED


def test_a_killed_rank_fails_the_run() -> None:
    process = start(*ENDLESS, program=TORCHRUN)
    run = training(process)
    os.kill(run.attempts[0].workers()[1].pid, signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert run_status(run).state in (State.FAILED, State.STOPPED, State.LOST)
    assert not processes_of(run.path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "what shall be trained"),
        (["train", "--task", "regresion"], "did you mean 'regression'"),
        (["train", "--task", "regression", "--epohcs", "1"], "did you mean --epochs"),
        (["train", "regression", "quickstart"], "one run has one recipe"),
        (["train", "--resume", "latest", "--lr", "1"], "continued as it was begun"),
        (["train", "--resume", "latest"], "there are no runs"),
        (["train", "--task", "regression", "cluster.processes_per_node=2"], "torchrun --nproc_per_node=2"),
        (["train", "--task", "script"], "required, but not given"),
    ],
)
def test_wrong_command_lines_give_one_message(arguments: list[str], message: str) -> None:
    done = nexa(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("runs").exists()


def test_under_torchrun_one_rank_tells_what_is_wrong() -> None:
    done = nexa(*TASK, "cluster.processes_per_node=3", program=TORCHRUN)
    assert done.returncode != 0
    assert done.stderr.count("3 asked for, and the launcher started 2") == 1
    assert not Path("runs").exists()


def test_a_run_on_a_full_disk_says_so() -> None:
    done = nexa(*TASK, "--steps", "1", "--warmup", "0", "artifacts.store_uri=/dev/full/store")
    assert done.returncode != 0
    assert "/dev/full" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_module_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nexa_torch.train", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--task NAME" in done.stdout
