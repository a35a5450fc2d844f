"""Contract tests of a scheduler: real supervisors and workers are started, watched and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import pytest

from nexa.backend import LaunchSpec, Resources, RunState
from nexa.files import read_json
from nexa.plugins import PluginHost
from nexa.recipe.schema import Recipe
from nexa.runs.store import Run
from nexa.scheduler import Attempt, ClusterView, JobRef, JobState, JobStatus, Scheduler, Submission
from nexa.testing.base import CreatedPluginContract
from nexa.testing.idle import IdleBackend
from nexa.testing.recipes import tiny_recipe
from nexa.testing.runs import create_run

ONE_WORKER = Resources(num_nodes=1, gpus_per_node=0, processes_per_node=1)
_POLL_S = 0.05
_SUBMIT = """
import json, sys
from pathlib import Path
from nexa.plugins import get_host
from nexa.scheduler import Attempt, Submission
name, run_id, run_dir, number, argv, script = json.loads(sys.stdin.read())
scheduler = get_host().create("scheduler", name)
scheduler.submit(
    Attempt(run_id=run_id, run_dir=Path(run_dir), number=number), Submission(argv=argv, script=script)
)
"""


class SchedulerContract(CreatedPluginContract):
    """Every test a scheduler must pass.

    start_timeout_s: longest time a job may wait before its worker runs. submit_timeout_s: longest
    time `submit` may take.
    """

    kind = "scheduler"
    start_timeout_s: ClassVar[float] = 60.0
    submit_timeout_s: ClassVar[float] = 15.0

    @pytest.fixture
    def scheduler(self, host: PluginHost) -> Scheduler:
        """The scheduler under test."""
        return host.create("scheduler", self.plugin_name)

    @pytest.fixture
    def submit(self, scheduler: Scheduler, tmp_path: Path) -> Iterator[Callable[..., tuple[Run, JobRef]]]:
        """Submits a run of so many waiting steps; whatever still runs is ended afterwards."""
        jobs: list[JobRef] = []

        def start(steps: int) -> tuple[Run, JobRef]:
            run, attempt, submission = self.prepare(scheduler, tmp_path, steps)
            begin = time.monotonic()
            jobs.append(scheduler.submit(attempt, submission))
            assert time.monotonic() - begin < self.submit_timeout_s, "submit must not wait for the job"
            return run, jobs[-1]

        yield start
        for job in jobs:
            if scheduler.status([job])[0].state is not JobState.ENDED:
                scheduler.cancel(job, force=True)

    def recipe(self, folder: Path, steps: int) -> Recipe:
        """The recipe that the jobs run."""
        return tiny_recipe(folder, {"scheduler": self.plugin_name, "training.max_steps": steps})

    def prepare(self, scheduler: Scheduler, folder: Path, steps: int) -> tuple[Run, Attempt, Submission]:
        """Make a run directory with its first attempt, and plan the attempt."""
        recipe = self.recipe(folder / "recipe", steps)
        launch = IdleBackend().plan(recipe, ONE_WORKER)
        run = create_run(recipe, folder, launch=launch, resources=ONE_WORKER)
        attempt = run.create_attempt(1, resume_from=None, reason="contract test")
        return run, attempt, scheduler.plan(recipe, attempt, launch, ONE_WORKER)

    def wait_for(self, scheduler: Scheduler, job: JobRef, *states: JobState) -> JobStatus:
        """Wait until the job is in one of the states and return its status."""
        deadline = time.monotonic() + self.start_timeout_s
        while True:
            (status,) = scheduler.status([job])
            if status.state in states:
                return status
            assert time.monotonic() < deadline, f"job {job.job_id} is {status}, not {states}"
            time.sleep(_POLL_S)

    def wait_for_step(self, run: Run) -> None:
        """Wait until the worker writes metrics."""
        deadline = time.monotonic() + self.start_timeout_s
        while not (_events(run) and '"metrics"' in _events(run)):
            assert time.monotonic() < deadline, f"no step of {run.path} within {self.start_timeout_s:g} s"
            time.sleep(_POLL_S)

    def test_check_accepts_one_worker(self, scheduler: Scheduler, tmp_path: Path) -> None:
        """A run on one CPU process can be started."""
        assert list(scheduler.check(self.recipe(tmp_path, 1), ONE_WORKER)) == []

    def test_plan_is_pure(self, scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same input gives the same submission and touches neither files nor the environment."""
        recipe = self.recipe(tmp_path / "recipe", 1)
        attempt = Attempt(run_id="run-1", run_dir=tmp_path / "run-1", number=1)
        launch = LaunchSpec(python=sys.executable, factory="a:B", env={"CANARY": "1"})
        monkeypatch.chdir(tmp_path)
        before = (sorted(tmp_path.rglob("*")), dict(os.environ))
        submission = scheduler.plan(recipe, attempt, launch, ONE_WORKER)
        assert scheduler.plan(recipe, attempt, launch, ONE_WORKER) == submission
        assert (sorted(tmp_path.rglob("*")), dict(os.environ)) == before
        assert submission.argv
        assert all(isinstance(argument, str) for argument in submission.argv)

    def test_a_job_runs_to_its_end(self, scheduler: Scheduler, submit: Callable[..., tuple[Run, JobRef]]) -> None:
        """submit returns at once, the worker trains, the supervisor records the end, the job has ended."""
        run, job = submit(3)
        assert job.scheduler == self.plugin_name
        assert JobRef(**json.loads(json.dumps(asdict(job)))) == job
        self.wait_for(scheduler, job, JobState.ENDED)
        folder = run.attempts[-1]
        result, end = folder.read("result"), folder.read("exit")
        assert result is not None
        assert (result["state"], result["step"]) == (RunState.COMPLETED, 3)
        assert end is not None
        assert end["exit_code"] == 0

    def test_a_running_job_says_so(self, scheduler: Scheduler, submit: Callable[..., tuple[Run, JobRef]]) -> None:
        """While its worker trains, a job is running."""
        run, job = submit(100_000)
        self.wait_for_step(run)
        assert scheduler.status([job])[0].state is JobState.RUNNING

    def test_a_job_outlives_the_process_that_submitted_it(self, scheduler: Scheduler, tmp_path: Path) -> None:
        """The submitting process ends while the job has barely begun; the run completes."""
        run, attempt, submission = self.prepare(scheduler, tmp_path, 20)
        message = [self.plugin_name, run.run_id, str(run.path), attempt.number, [*submission.argv], submission.script]
        subprocess.run(
            [sys.executable, "-c", _SUBMIT], input=json.dumps(message), text=True, check=True, capture_output=True
        )
        deadline = time.monotonic() + self.start_timeout_s
        path = run.attempts[-1].path / "exit.json"
        while (end := read_json(path)) is None:
            assert time.monotonic() < deadline, "the run did not end"
            time.sleep(_POLL_S)
        assert end["exit_code"] == 0

    def test_cancel_lets_the_worker_save(self, scheduler: Scheduler, submit: Callable[..., tuple[Run, JobRef]]) -> None:
        """Without force, the worker stops at a step boundary with a checkpoint."""
        run, job = submit(100_000)
        self.wait_for_step(run)
        scheduler.cancel(job, force=False)
        self.wait_for(scheduler, job, JobState.ENDED)
        result = run.attempts[-1].read("result")
        assert result is not None
        assert result["state"] == RunState.STOPPED
        assert result["checkpoint"]

    def test_cancel_by_force_ends_the_job(
        self, scheduler: Scheduler, submit: Callable[..., tuple[Run, JobRef]]
    ) -> None:
        """With force, the job ends and no further step is recorded."""
        run, job = submit(100_000)
        self.wait_for_step(run)
        scheduler.cancel(job, force=True)
        self.wait_for(scheduler, job, JobState.ENDED)
        recorded = _events(run)
        time.sleep(0.5)
        assert _events(run) == recorded

    def test_cancelling_twice_is_no_error(
        self, scheduler: Scheduler, submit: Callable[..., tuple[Run, JobRef]]
    ) -> None:
        """A job that has ended is left as it is."""
        _, job = submit(1)
        self.wait_for(scheduler, job, JobState.ENDED)
        scheduler.cancel(job, force=False)
        scheduler.cancel(job, force=True)

    def test_status_answers_in_order_and_for_unknown_jobs(
        self, scheduler: Scheduler, submit: Callable[..., tuple[Run, JobRef]]
    ) -> None:
        """A job nobody knows is never called running or pending, and does not disturb the others."""
        _, job = submit(1)
        self.wait_for(scheduler, job, JobState.ENDED)
        unknown = JobRef(scheduler=self.plugin_name, job_id="2147480000", details={})
        first, second, third = scheduler.status([unknown, job, unknown])
        assert second.state is JobState.ENDED
        assert {first.state, third.state} <= {JobState.ENDED, JobState.UNKNOWN}
        assert list(scheduler.status([])) == []

    def test_cluster_names_machines(self, scheduler: Scheduler) -> None:
        """There is at least one machine, each with its own name, and the view says when it was taken."""
        view = scheduler.cluster()
        assert isinstance(view, ClusterView)
        assert abs(view.taken_at - time.time()) < 60
        nodes = view.nodes
        assert nodes, view.problem
        assert len({node.name for node in nodes}) == len(nodes)
        assert all(node.cpus is None or node.cpus > 0 for node in nodes)


def _events(run: Run) -> str:
    try:
        return run.attempts[-1].events_path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
