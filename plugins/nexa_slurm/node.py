"""`python -m nexa_slurm.node RUN_DIR ATTEMPT HOST:PORT`: srun's task on one node; becomes its workers.

It first shows that this node sees the run folder and may write to it, and says so where not. The signals
that ask for a stop are kept back until the workers listen: the launcher between them, torchrun, would
end them instead. Standard library only.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from nexa.errors import NexaError, WorkerError
from nexa.files import write_json
from nexa.worker.command import worker_environment
from nexa.worker.container import contained
from nexa.worker.identity import ProcessIdentity
from nexa.worker.output import redirect_to
from nexa.worker.place import WorkerPlace, read_plan
from nexa_slurm.tasks import launch_of, local_path, node_argv

NOT_VISIBLE_EXIT_CODE = 93
NO_PROGRAM_EXIT_CODE = 90


def main(argv: Sequence[str] | None = None) -> int:
    """Become the node's workers; returns only where that fails."""
    run_dir, attempt, rendezvous = sys.argv[1:] if argv is None else argv
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
    place = WorkerPlace(run_dir=Path(run_dir), attempt=int(attempt))
    node, num_nodes = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_NODES"])
    try:
        _probe(place, node)
        plan = read_plan(place.run_dir, place.attempt)
    except NexaError as error:
        _say(error.message)
        return NOT_VISIBLE_EXIT_CODE
    words = node_argv(plan, place, node=node, num_nodes=num_nodes, rendezvous=rendezvous)
    launch = launch_of(plan)
    environment = worker_environment(os.environ, launch, place.run_dir, place.attempt)
    words, environment = contained(
        launch, words, environment, place.run_dir, place.attempt, node=node, several_nodes=num_nodes > 1
    )
    try:
        if num_nodes > 1:
            redirect_to(place.run_dir / "logs" / f"{attempt}-node{node}.log")
        os.execvpe(words[0], words, environment)
    except (OSError, NexaError) as error:
        _say(f"{words[0]} can't be started: {getattr(error, 'strerror', None) or error}")
    return NO_PROGRAM_EXIT_CODE


def _probe(place: WorkerPlace, node: int) -> None:
    """Leave this node's report in the run folder. Raises WorkerError."""
    if not place.attempt_dir.is_dir():
        raise WorkerError(
            f"the run folder {place.run_dir} is not visible here; set NEXA_RUNS_DIR to a folder that all nodes share"
        )
    path = local_path(place.attempt_dir, node)
    report = {**ProcessIdentity.current().document(), "node": os.environ.get("SLURMD_NODENAME", "")}
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, report)
    except OSError as error:
        raise WorkerError(f"the run folder {place.run_dir} can't be written: {error.strerror or error}") from error


def _say(words: str) -> None:
    print(f"nexa: node {os.environ.get('SLURMD_NODENAME', '?')}: {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
