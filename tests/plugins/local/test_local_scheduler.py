"""The local scheduler against the public contract, and what is its own."""

from __future__ import annotations

import pytest

from nexa.backend import Resources
from nexa.errors import NexaError
from nexa.scheduler import JobRef, JobState
from nexa.testing.scheduler import SchedulerContract
from nexa.worker.identity import ProcessIdentity
from nexa_local.scheduler import LocalScheduler


class TestLocalScheduler(SchedulerContract):
    """The contract every scheduler keeps."""

    plugin_name = "local"


@pytest.fixture
def scheduler() -> LocalScheduler:
    return LocalScheduler()


def test_more_machines_or_gpus_than_there_are_are_refused_with_the_numbers(scheduler, monkeypatch):
    monkeypatch.setattr("nexa_local.scheduler.gpu_names", lambda: ["one"])
    problems = scheduler.check(None, Resources(num_nodes=2, gpus_per_node=4, processes_per_node=4))
    assert [problem.path for problem in problems] == ["cluster.num_nodes", "cluster.gpus_per_node"]
    assert "2 machines" in problems[0].message
    assert "4 GPUs" in problems[1].message
    assert "has 1" in problems[1].message
    assert not scheduler.check(None, Resources(num_nodes=1, gpus_per_node=1, processes_per_node=1))


def test_a_job_of_another_machine_is_unknown_and_not_ended_from_here(scheduler, tmp_path):
    identity = {**ProcessIdentity.current().document(), "host": "elsewhere"}
    job = JobRef(scheduler="local", job_id="1", details={**identity, "run_dir": str(tmp_path), "attempt": 1})
    assert scheduler.status([job])[0].state is JobState.UNKNOWN
    with pytest.raises(NexaError, match="belongs to elsewhere"):
        scheduler.cancel(job, force=True)


def test_an_attempt_that_does_not_exist_is_refused_with_the_supervisors_words(scheduler, tmp_path):
    from nexa.scheduler import Attempt

    attempt = Attempt(run_id="r", run_dir=tmp_path, number=1)
    with pytest.raises(NexaError, match="has no attempt 1"):
        scheduler.submit(attempt, scheduler.plan(None, attempt, None, None))
