"""Environments: making one against uv or pip by hand, finding it again (target ≤1 s), two asking at once (one build).

Packages come from the index or the builder's cache, warmed once before. Every round builds into a new folder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench._measure import Timing, measure, report

from nexa.environments.build import create
from nexa.environments.builders import find_builder
from nexa.environments.requirements import Needs
from nexa.environments.store import EnvironmentStore
from nexa.errors import UserError

_CREATE = "import sys; from tests.bench.bench_environments import make; make(*sys.argv[1:3], sys.argv[3:])"


def main(argv: Sequence[str] = ()) -> None:
    """Measure creation, second creation and creation by two processes at once, with each builder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requirement", action="append", help="what to install; default: rich and pydantic")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: the temporary folder")
    options = parser.parse_args(argv)
    requirements = options.requirement or ["rich", "pydantic"]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for builder in ("uv", "pip"):
            try:
                find_builder(builder)
            except UserError as error:
                print(f"\n{builder} is left out: {error}")
                continue
            _compare(Path(name) / builder, builder, requirements, options.rounds)


def make(root: str, builder: str, requirements: Sequence[str]) -> None:
    """Create one environment below `root`; print its progress."""
    needs = Needs(asker="bench", requirements=tuple(requirements), python=">=3.10", probes=())
    create(EnvironmentStore(Path(root)), needs, backend="bench", builder=builder, python=sys.executable, progress=print)


def _compare(folder: Path, builder: str, requirements: Sequence[str], rounds: int) -> None:
    folder.mkdir()
    fresh = iter(range(10**6))

    def new() -> str:
        return str(folder / str(next(fresh)))

    candidates: dict[str, Callable[[], object]] = {
        "nexa": lambda: _run(_nexa(new(), builder, requirements)),
        f"{builder} by hand": lambda: _by_hand(builder, new(), requirements),
    }
    title = f"a new environment with {', '.join(requirements)}, {builder}"
    report(title, measure(candidates, rounds=rounds), candidate="nexa")
    root = new()
    _run(_nexa(root, builder, requirements))
    again = measure({"nexa": lambda: _run(_nexa(root, builder, requirements))}, rounds=rounds)
    report("the same again, with the start of Python", again, candidate="nexa", target="≤1 s")
    _two_at_once(new(), builder, requirements)
    shutil.rmtree(folder)


def _two_at_once(root: str, builder: str, requirements: Sequence[str]) -> None:
    begun = time.perf_counter()
    both = [subprocess.Popen(_nexa(root, builder, requirements), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    builds = sum("installing " in process.communicate()[0] for process in both)
    timing = Timing("both", (time.perf_counter() - begun,))
    report(f"two processes at once: {builds} build(s)", {"both": timing}, candidate="both", target="1 build")


def _nexa(root: str, builder: str, requirements: Sequence[str]) -> list[str]:
    return [sys.executable, "-c", _CREATE, root, builder, *requirements]


def _by_hand(builder: str, folder: str, requirements: Sequence[str]) -> None:
    """What a person types for the same: no lock, no hashes, no check."""
    if builder == "uv":
        program = find_builder("uv").program  # type: ignore[attr-defined]
        _run([program, "venv", "--quiet", "--python", sys.executable, folder])
        options = ["--compile-bytecode", "--link-mode=copy", "--python", f"{folder}/bin/python"]
        _run([program, "pip", "install", "--quiet", *options, *requirements])
    else:
        _run([sys.executable, "-m", "venv", folder])
        _run([f"{folder}/bin/python", "-m", "pip", "install", "--quiet", *requirements])


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
