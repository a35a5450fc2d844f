"""The Slurm scheduler against the public contract, its queue's rate, and submissions that go wrong."""

from __future__ import annotations

import os
import threading
import time

import pytest
from slurm_runs import launch_and_die, nexa
from workspace import make_workspace, until

import nexa_slurm.queue
from nexa.errors import NexaError, UserError
from nexa.runs.actions import submit_attempt
from nexa.runs.state import State, run_status
from nexa.scheduler import JobState, UncertainSubmissionError
from nexa.testing.scheduler import SchedulerContract
from nexa_slurm import scheduler as slurm_module
from nexa_slurm.commands import ControllerError
from nexa_slurm.queue import JobQueue
from nexa_slurm.scheduler import SlurmScheduler


@pytest.mark.usefixtures("cluster")
class TestSlurmScheduler(SchedulerContract):
    """The contract every scheduler keeps."""

    plugin_name = "slurm"


@pytest.mark.parametrize(
    ("cluster_section", "slurm_section", "words", "hint"),
    [
        ({}, {"partition": "absent"}, "nvalid partition", "high, low"),
        ({"num_nodes": 40}, {}, "", "cluster.num_nodes"),
        ({"time_limit": "90d"}, {}, "time limit", "cluster.time_limit"),
        ({"memory_per_node": "4T"}, {}, "emory", "memory_per_node"),
        ({"cpus_per_node": 4000}, {}, "", "cpus_per_node"),
        ({}, {"constraint": "absent"}, "eature", "slurm.constraint"),
        ({}, {"reservation": "absent"}, "eservation", "slurm.reservation"),
        ({}, {"options": ["--absent-option"]}, "option", "slurm.options"),
    ],
)
def test_a_refused_job_quotes_slurm_and_says_what_to_type(runs, cluster_section, slurm_section, words, hint):
    nodes = cluster_section.pop("num_nodes", 1)
    run = runs.make(steps=1, nodes=nodes, cluster=cluster_section, slurm=slurm_section)
    with pytest.raises(UserError) as caught:
        runs.start(run)
    assert caught.value.exit_code == 2
    assert words in caught.value.message
    assert hint in caught.value.hint
    assert run_status(run).state is State.FAILED


def test_without_slurm_the_plan_says_so(tmp_path):
    workspace = make_workspace(tmp_path / "work")
    outcome = workspace.nexa("launch", "tiny.yaml", "--scheduler", "slurm", "--explain", PATH="/nonexistent")
    assert outcome.exit_code == 2
    assert "there is no sbatch" in outcome.err
    assert "login node" in outcome.err
    assert "Traceback" not in outcome.err
    assert "#!/bin/bash" in outcome.out


def test_the_exact_command_and_script_are_shown(cluster, tmp_path):
    workspace = make_workspace(tmp_path / "work")
    arguments = ("tiny.yaml", "--scheduler", "slurm", "--nodes", "2", "cluster.time_limit=2h", "slurm.partition=high")
    outcome = workspace.nexa("launch", *arguments, "--explain")
    assert outcome.exit_code == 0, outcome.err
    for words in ("--nodes=2", "--time=02:00:00", "--partition=high", "--signal=B:USR1@120", "exec", "Note: "):
        assert words in outcome.out
    assert not workspace.runs_dir.exists()


@pytest.mark.parametrize("options", ["[]", '["--hold"]'])
def test_a_launcher_killed_after_sbatch_finds_its_job_again(workspace, cluster, options):
    words = ("launch", "echo.yaml", "--scheduler", "slurm", "training.max_steps=5", f"slurm.options={options}")
    launch_and_die(workspace, *words, "--detach")
    (run_dir,) = workspace.runs_dir.iterdir()
    if options != "[]":
        assert not (run_dir / "attempts" / "1" / "job.json").exists()
        shown = nexa(workspace, "runs", "--json").json[0]
        assert shown["state"] == "queued"
        assert (run_dir / "attempts" / "1" / "job.json").exists()
        nexa(workspace, "requeue", "latest")
    shown = until(lambda: nexa(workspace, "runs", "--json").json[0], lambda shown: not shown["active"])
    assert shown["state"] == "completed"
    jobs = cluster.command("squeue", "--noheader", "--states=all", "--format=%i", f"--name={run_dir.name}").split()
    assert len(jobs) == 1


def test_an_sbatch_without_answer_finds_its_job_or_says_that_it_does_not_know(runs, monkeypatch):
    real = slurm_module.run_slurm
    monkeypatch.setattr(slurm_module, "_APPEAR_SECONDS", 1.0)

    def answers_too_late(argv, **options):
        answer = real(argv, **options)
        if argv[0] == "sbatch":
            raise ControllerError("sbatch", "Socket timed out on send/recv operation")
        return answer

    monkeypatch.setattr(slurm_module, "run_slurm", answers_too_late)
    run = runs.launch(steps=3)
    assert runs.await_end(run).state is State.COMPLETED

    def never_answers(argv, **options):
        raise ControllerError(argv[0], "Unable to contact slurm controller (connect failure)")

    monkeypatch.setattr(slurm_module, "run_slurm", never_answers)
    lost = runs.make(steps=3)
    with pytest.raises(UncertainSubmissionError, match="did not say whether"):
        runs.start(lost)
    assert lost.attempts[0].read("exit") is None


def test_a_job_whose_attempt_has_ended_trains_nothing(runs):
    run = runs.make(steps=3)
    attempt, submission = runs.prepare(run)
    (run.path / "attempts" / "1" / "exit.json").write_text('{"state": "failed", "reason": "given up"}')
    submit_attempt(run, attempt, SlurmScheduler(), submission)
    log = run.path / "logs" / "1-supervisor.log"
    deadline = time.monotonic() + 30
    while "nothing to do" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert runs.metrics(run, 1) == []


def test_any_number_of_watchers_ask_slurm_six_times_a_minute(cluster, tmp_path, monkeypatch):
    asked = []
    running = []
    monkeypatch.setattr(nexa_slurm.queue, "INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(nexa_slurm.queue, "QUERIES_PER_MINUTE", 6)

    def squeue(argv, **options):
        running.append(argv)
        assert len(running) == 1, "two questions at a time"
        asked.append(argv)
        time.sleep(0.01)
        running.pop()
        return ""

    monkeypatch.setattr(nexa_slurm.queue, "run_slurm", squeue)
    watchers = [threading.Thread(target=_watch, args=(JobQueue(tmp_path),)) for _ in range(8)]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    assert len(asked) == 6


def _watch(queue):
    for _ in range(100):
        queue.snapshot()
        time.sleep(0.01)


def test_the_cluster_view_has_nodes_partitions_and_my_jobs(runs):
    run = runs.launch(steps=10_000, step_seconds=0.05, slurm={"gres": "gpu:1"})
    held = runs.launch("held", slurm={"options": ["--hold"]}, steps=1)
    runs.await_step(run, 1)
    view = SlurmScheduler().cluster()
    assert view.problem == ""
    assert [node.name for node in view.nodes] == ["n1", "n2", "n3"]
    assert sum(node.gpus for node in view.nodes) == 6
    assert sum(node.free_gpus for node in view.nodes) == 5
    low = next(partition for partition in view.partitions if partition.name == "low")
    assert (low.is_default, low.nodes, low.idle_nodes, low.max_seconds) == (True, 3, 2, 2 * 86400)
    high = next(partition for partition in view.partitions if partition.name == "high")
    assert (high.is_default, high.nodes, high.idle_nodes) == (False, 3, 2)
    jobs = {job.run_id: job for job in view.jobs}
    assert jobs[run.run_id].state is JobState.RUNNING
    assert "held" in jobs[held.run_id].reason


def test_accounting_remembers_jobs_and_refuses_unknown_accounts(accounting_cluster, tmp_path):
    from slurm_runs import SlurmRuns

    runs = SlurmRuns(tmp_path, accounting_cluster)
    run = runs.make(steps=1, slurm={"account": "absent"})
    with pytest.raises(UserError, match="account") as caught:
        runs.start(run)
    assert "research" in caught.value.hint
    run = runs.launch(steps=2, slurm={"account": "research"})
    assert runs.await_end(run).state is State.COMPLETED
    job = runs.job_id(run)
    deadline = time.monotonic() + 30
    while "COMPLETED" not in slurm_module._ask_accounting(job):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_command_of_slurm_that_fails_quotes_its_words(cluster):
    with pytest.raises(NexaError, match="scontrol: "):
        slurm_module.run_slurm(["scontrol", "show", "job", "99999999"])
    assert os.environ["SLURM_CONF"] == str(cluster.conf)
