"""What a launch into a ready Axolotl environment adds over calling `axolotl train` by hand.

Target: ≤0.5 s from the command to the end of a short run, on the same rendered file, and the same losses, gradient
norms and rates to the last printed digit. Processor time is told beside the clock's, since it says more on a machine
that does other things too; Nexa's includes the encoding of the data, which `axolotl train` finds done.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench._measure import measure, report

from nexa.runs.store import Run
from nexa.testing.recipes import tiny_recipe
from nexa.testing.runs import make_run, run_attempt

_FIGURES = ("loss", "grad_norm", "lr")
_RECORD = re.compile(r"\{'loss': '([^']+)', 'grad_norm': '([^']+)', 'learning_rate': '([^']+)'")


def main(argv: Sequence[str] = ()) -> None:
    """Time a run of Nexa and `axolotl train` on what it rendered, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--python",
        default=os.environ.get("NEXA_AXOLOTL_PYTHON"),
        help="interpreter that has Axolotl; default: the variable NEXA_AXOLOTL_PYTHON",
    )
    options = parser.parse_args(argv)
    if not options.python:
        print("skipped: name an interpreter that has Axolotl with --python (nexa env create axolotl makes one)")
        return
    with tempfile.TemporaryDirectory() as folder:
        _measure(Path(folder), options.python, options.rounds)


def _measure(folder: Path, python: str, rounds: int) -> None:
    overrides = {"backend": "axolotl", "environment.name": python, "data.packing": False}
    recipe = tiny_recipe(folder / "recipe", overrides)
    made: list[Run] = []
    losses: dict[str, list[tuple[str, ...]]] = {}
    processor: dict[str, list[float]] = {"nexa launch": [], "axolotl train": []}

    def launch() -> None:
        made.append(make_run(recipe, folder))
        started = _children_seconds()
        outcome = run_attempt(made[-1])
        processor["nexa launch"].append(_children_seconds() - started)
        assert outcome.exit_code == 0, outcome.output
        records = [record["values"] for record in outcome.of_type("metrics")]
        losses["nexa launch"] = [tuple(f"{values[name]:.4g}" for name in _FIGURES) for values in records]

    def by_hand() -> None:
        run = made[-1]
        # A cache of the rows that the run before has left would spare the work.
        shutil.rmtree(run.path / "axolotl" / "cache", ignore_errors=True)
        started = _children_seconds()
        done = subprocess.run(
            [
                str(Path(python).with_name("axolotl")),
                *("train", str(run.path / "axolotl" / "config.yaml"), "--launcher", "python"),
            ],
            env={**os.environ, **run.plan["launch"]["env"]},
            check=True,
            capture_output=True,
            text=True,
        )
        processor["axolotl train"].append(_children_seconds() - started)
        losses["axolotl train"] = _RECORD.findall(done.stdout + done.stderr)

    timings = measure({"nexa launch": launch, "axolotl train": by_hand}, rounds=rounds)
    report("four steps of a two-layer model", timings, candidate="nexa launch", target="≤0.5 s more")
    pairs = zip(timings["nexa launch"].seconds, timings["axolotl train"].seconds, strict=True)
    print(f"  added: {statistics.median(ours - theirs for ours, theirs in pairs):.2f} s (median of {rounds} rounds)")
    ours, theirs = (statistics.median(values[-rounds:]) for values in processor.values())
    print(f"  processor time: {ours:.2f} s and {theirs:.2f} s")
    same = "equal" if losses["nexa launch"] == losses["axolotl train"] else f"different: {losses}"
    print(f"  losses, gradient norms and rates of {len(losses['axolotl train'])} steps: {same}")


def _children_seconds() -> float:
    """Processor time of all ended children of this process."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
