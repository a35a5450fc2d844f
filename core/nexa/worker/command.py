"""The command line that starts one node's workers, the same on every scheduler.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RUN_DIR_VARIABLE = "NEXA_RUN_DIR"
ATTEMPT_VARIABLE = "NEXA_ATTEMPT"

# Left by a torchrun that the launching command itself ran under; they would misplace the new ranks.
_RANK_VARIABLES = ("RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


def worker_argv(
    launch: Mapping[str, Any],
    run_dir: Path,
    attempt: int,
    *,
    num_nodes: int = 1,
    rendezvous: str | None = None,
    elastic_options: Sequence[str] = (),
) -> list[str]:
    """Return the command that starts the workers of one node.

    launch: the fields of a LaunchSpec; with `code` the interpreter is started so that it finds Nexa there and
    nothing in the current folder. rendezvous: "host:port" of the node that all nodes meet at;
    needed above one node. elastic_options: further options of torch.distributed.run. A single worker is
    started directly; several are started by `torch.distributed.run`, which ends all when one fails and
    restarts none.
    """
    code = launch.get("code")
    run_module = [f"{code}/nexa/worker/start.py"] if code else ["-m"]
    worker = [*run_module, "nexa.worker", str(run_dir), str(attempt)]
    processes = int(launch.get("processes_per_node", 1))
    if num_nodes == 1 and processes == 1:
        return [launch["python"], *worker]
    elastic = [
        *run_module,
        "torch.distributed.run",
        f"--nnodes={num_nodes}",
        f"--nproc-per-node={processes}",
        "--max-restarts=0",
    ]
    if num_nodes == 1:
        # Port 0: the system picks a free one, so that runs on one machine never meet.
        elastic += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    else:
        if rendezvous is None:
            raise AssertionError("several nodes need a rendezvous")
        elastic += ["--rdzv-backend=c10d", f"--rdzv-endpoint={rendezvous}"]
    return [launch["python"], *elastic, *elastic_options, f"--rdzv-id={run_dir.name}-{attempt}", *worker]


def worker_environment(
    base: Mapping[str, str], launch: Mapping[str, Any], run_dir: Path, attempt: int
) -> dict[str, str]:
    """Return the environment of the workers: `base`, the launch's own variables, and the run's mark.

    The mark (NEXA_RUN_DIR, NEXA_ATTEMPT) is inherited by everything a worker starts, so that all
    processes of a run can be found and ended.
    """
    code = launch.get("code")
    return {
        **{name: value for name, value in base.items() if not name.startswith(_RANK_VARIABLES)},
        # What a worker itself starts must find Nexa too; the launching environment's own path must not reach there.
        **({"PYTHONPATH": code, "PYTHONNOUSERSITE": "1"} if code else {}),
        # A file in the current folder must not shadow a library's module.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        # Colour and progress bars in a log file are noise.
        "NO_COLOR": "1",
        **launch.get("env", {}),
        RUN_DIR_VARIABLE: str(run_dir),
        ATTEMPT_VARIABLE: str(attempt),
    }
