"""Runs of the counting backend as real Slurm jobs, for the tests of this folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import Cluster
from workspace import Outcome, Workspace

from nexa.backend import LaunchSpec, Resources
from nexa.events.reader import EventReader
from nexa.recipe.schema import Recipe
from nexa.runs.actions import submit_attempt
from nexa.runs.jobs import job_of
from nexa.runs.state import RunStatus, run_status
from nexa.runs.store import Run, RunStore
from nexa.scheduler import Attempt
from nexa_slurm.scheduler import SlurmScheduler

WORKERS = Path(__file__).parents[1] / "core" / "workers"


# A launching command that is killed between sbatch and the record of its job.
_LAUNCH_AND_DIE = """
import os, signal, sys
import nexa_slurm.scheduler as module
from nexa.cli.main import main
real = module.run_slurm
def run_and_die(argv, **options):
    answer = real(argv, **options)
    if argv[0] == "sbatch":
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
module.run_slurm = run_and_die
main(sys.argv[1:])
"""


class SlurmRuns:
    """Makes, starts and awaits runs below one folder; ends what is left of them."""

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self.cluster = cluster
        self.store = RunStore(root / "runs")
        self.store_uri = (root / "artifacts").as_uri()
        self._made: list[Run] = []

    def make(
        self,
        name: str = "count",
        *,
        nodes: int = 1,
        cluster: dict[str, Any] | None = None,
        slurm: dict[str, Any] | None = None,
        launch: dict[str, Any] | None = None,
        **meta: Any,
    ) -> Run:
        """Create a run of the counting backend, not started; launch: fields of its LaunchSpec."""
        recipe = Recipe.model_validate(
            {
                "method": "count",
                "scheduler": "slurm",
                "model": {"name": "none"},
                "data": {"remote_uri": "none"},
                "cluster": {"num_nodes": nodes, **(cluster or {})},
                "meta": meta,
                "plugin_options": {"slurm": slurm or {}},
            }
        )
        plan = {
            "recipe": recipe.document(),
            "launch": {
                "python": sys.executable,
                "factory": "counting_backend:CountingBackend",
                "processes_per_node": 1,
                "env": {"PYTHONPATH": str(WORKERS)},
                **(launch or {}),
            },
            "resources": {"num_nodes": nodes, "gpus_per_node": 0, "processes_per_node": 1},
            "store": {"factory": "nexa_file.store:FileStore", "uri": self.store_uri},
            "observers": [],
            "lineage": {"nexa_version": "0", "dataset": {"uri": "none", "version": None}},
        }
        document = {
            "scheduler": "slurm",
            "backend": "counting",
            "method": "count",
            "recipe_name": name,
            "argv": ["nexa"],
        }
        run = self.store.create(name, document=document, recipe_yaml="method: count\n", plan=plan)
        self._made.append(run)
        return run

    def prepare(self, run: Run) -> tuple[Attempt, Any]:
        """The first attempt of a run and what submitting it does."""
        attempt = run.create_attempt(1, resume_from=None, reason="launched")
        plan = run.plan
        submission = SlurmScheduler().plan(
            Recipe.from_document(plan["recipe"]),
            attempt,
            LaunchSpec.from_document(plan["launch"]),
            Resources(**plan["resources"]),
        )
        return attempt, submission

    def start(self, run: Run) -> Run:
        """Submit the first attempt."""
        attempt, submission = self.prepare(run)
        submit_attempt(run, attempt, SlurmScheduler(), submission)
        return run

    def launch(self, name: str = "count", **options: Any) -> Run:
        """`make` and `start`."""
        return self.start(self.make(name, **options))

    def job_id(self, run: Run) -> str:
        """Slurm's id of the run's newest job."""
        job = job_of(run.latest_attempt)
        assert job is not None
        return job.job_id

    def slurm(self, *argv: str) -> str:
        """Run one of Slurm's commands."""
        return self.cluster.command(*argv)

    def await_status(self, run: Run, wanted: Callable[[RunStatus], Any], *, seconds: float = 60.0) -> RunStatus:
        """Wait for a status that `wanted` accepts."""
        deadline = time.monotonic() + seconds
        while True:
            status = run_status(run)
            if wanted(status):
                return status
            if time.monotonic() > deadline:
                raise AssertionError(f"{run.run_id} is {status} after {seconds} s; {self.evidence(run)}")
            time.sleep(0.1)

    def await_end(self, run: Run, *, seconds: float = 60.0) -> RunStatus:
        """Wait until the run is no longer active."""
        return self.await_status(run, lambda status: not status.active, seconds=seconds)

    def await_step(self, run: Run, step: int, *, attempt: int = 1) -> None:
        """Wait until an attempt has done a step."""
        deadline = time.monotonic() + 120
        while not any(values["step"] >= step for values in self.metrics(run, attempt)):
            assert time.monotonic() < deadline, self.evidence(run)
            time.sleep(0.05)

    def metrics(self, run: Run, attempt: int) -> list[dict[str, Any]]:
        """Metric events of an attempt's first rank."""
        records = EventReader(run.path / "events" / f"{attempt}-0.jsonl").poll()
        return [record for record in records if record["type"] == "metrics"]

    def evidence(self, run: Run) -> str:
        """Ends of the run's logs and Slurm's queue, for messages of tests."""
        logs = {path.name: path.read_text(errors="replace")[-1500:] for path in sorted((run.path / "logs").iterdir())}
        return f"logs: {logs}; queue: {self.slurm('squeue', '--states=all')}"

    def ends(self, run: Run) -> list[tuple[str | None, str | None]]:
        """State and reason of every attempt's end, in order."""
        ends = [attempt.read("exit") or {} for attempt in run.attempts]
        return [(end.get("state"), end.get("reason")) for end in ends]

    def end_all(self) -> None:
        """Cancel every job and wait until the nodes are idle."""
        self.cluster.command("scancel", "--full", "--signal=KILL", "--user=root", check=False)
        self.cluster.command("scancel", "--user=root", check=False)
        self.cluster.wait_idle()


def nexa(workspace: Workspace, *arguments: str, exit_code: int = 0) -> Outcome:
    """Run a command that sees nexa-echo."""
    outcome = workspace.nexa(*arguments, **workspace.echo_variables())
    assert outcome.exit_code == exit_code, outcome.out + outcome.err
    return outcome


def launch_and_die(workspace: Workspace, *arguments: str) -> None:
    """Run a launching command that is killed before it can record its job."""
    variables = workspace.environment(**workspace.echo_variables())
    words = [sys.executable, "-c", _LAUNCH_AND_DIE, *arguments]
    killed = subprocess.run(words, cwd=workspace.folder, env=variables, check=False)
    assert killed.returncode == -signal.SIGKILL
