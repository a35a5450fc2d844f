"""From typing a launch to the first log line of its job on a real Slurm, against submitit's simplest job.

Target: Nexa's minimum over ten rounds is no longer than submitit's; medians mostly show Slurm's own cycle.
Both are measured from the start of a fresh process: `nexa launch --scheduler slurm` up to the first line
of its supervisor's log, and a Python that submits a trivial function through submitit up to the line that
this function prints. submitit is not installed with Nexa; name a Python that has it with --submitit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench._measure import measure, report
from tests.slurm.cluster import Cluster, missing

_WORKERS = Path(__file__).parents[1] / "packages" / "nexa-echo" / "src"
_SUBMITIT = """
import sys, submitit
executor = submitit.AutoExecutor(folder=sys.argv[1], cluster="slurm")
executor.update_parameters(timeout_min=5)
executor.submit(print, "ready", flush=True)
"""
_RECIPE = """\
method: pretrain
backend: echo
scheduler: slurm
model: {name: byte-counts}
data: {remote_uri: words.jsonl}
training: {max_steps: 1}
"""
_POLL_S = 0.001
_TIMEOUT_S = 60.0


def main(argv: Sequence[str] = ()) -> None:
    """Start a cluster and time both in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--submitit", metavar="PYTHON", help="a Python that has submitit")
    options = parser.parse_args(argv)
    reason = missing()
    if reason is not None:
        print(f"not measured: {reason}")
        return
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(tempfile.mkdtemp(prefix="nexa-slurm-", dir="/tmp")))
        try:
            cluster.start()
            _compare(Path(folder), cluster, options.rounds, options.submitit)
        finally:
            cluster.stop()


def _compare(folder: Path, cluster: Cluster, rounds: int, submitit: str | None) -> None:
    candidates = {"nexa launch": _nexa(folder / "nexa", cluster), "sbatch": _sbatch(folder / "sbatch", cluster)}
    if submitit is None:
        print("peers: sbatch alone; for submitit: --submitit PYTHON")
    else:
        candidates["submitit"] = _submitit(folder / "submitit", cluster, submitit)
    timings = measure(candidates, rounds=rounds, prepare=cluster.wait_idle)
    report("launch to first log line", timings, candidate="nexa launch", target="minimum ≤ submitit's minimum")


def _nexa(folder: Path, cluster: Cluster) -> Callable[[], object]:
    information = folder / "site" / "nexa_echo-0.1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-echo\nVersion: 0.1.0\n")
    (information / "entry_points.txt").write_text("[nexa]\necho = nexa_echo.plugin\n")
    (folder / "echo.yaml").write_text(_RECIPE)
    (folder / "words.jsonl").write_text('{"text": "ahoy"}\n')
    environment = {
        **_environment(cluster),
        "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(_WORKERS)]),
        "NEXA_RUNS_DIR": str(folder / "runs"),
        "NEXA_STORE_URI": str(folder / "artifacts"),
    }
    words = [str(Path(sys.executable).with_name("nexa")), "launch", "echo.yaml", "--detach"]

    def call() -> None:
        known = set((folder / "runs").glob("*"))
        subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        _await_line(folder / "runs", "*/logs/1-supervisor.log", known)

    return call


def _submitit(folder: Path, cluster: Cluster, python: str) -> Callable[[], object]:
    folder.mkdir()
    environment = _environment(cluster)

    def call() -> None:
        known = set(folder.glob("*"))
        subprocess.run([python, "-c", _SUBMITIT, str(folder)], env=environment, check=True)
        _await_line(folder, "*_log.out", known)

    return call


def _sbatch(folder: Path, cluster: Cluster) -> Callable[[], object]:
    folder.mkdir()
    environment = _environment(cluster)
    words = ["sbatch", f"--output={folder}/%j.out", "--wrap=echo ready"]

    def call() -> None:
        known = set(folder.glob("*"))
        subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=True)
        _await_line(folder, "*.out", known)

    return call


def _environment(cluster: Cluster) -> dict[str, str]:
    """Both sides keep their compiled modules, as installed packages do."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **cluster.environment}


def _await_line(folder: Path, pattern: str, known: set[Path]) -> None:
    """Wait until a new file below `folder` holds a line."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        for path in folder.glob(pattern):
            if not known & {path, *path.parents} and path.stat().st_size > 0:
                return
        time.sleep(_POLL_S)
    raise TimeoutError(f"no log line in {folder} within {_TIMEOUT_S:g} s")
