"""What a launch into a ready Axolotl environment adds over calling `axolotl train` by hand.

Target: ≤0.5 s from the command to the end of a short run, on the same rendered file, and the same losses.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench._measure import measure, report

from nexa.runs.store import Run
from nexa.testing.recipes import tiny_recipe
from nexa.testing.runs import make_run, run_attempt


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

    def launch() -> None:
        made.append(make_run(recipe, folder))
        outcome = run_attempt(made[-1])
        assert outcome.exit_code == 0, outcome.output

    def by_hand() -> None:
        run = made[-1]
        command = [str(Path(python).with_name("axolotl")), "train", str(run.path / "axolotl" / "config.yaml")]
        subprocess.run(
            [*command, "--launcher", "python"],
            env={**os.environ, **run.plan["launch"]["env"]},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    timings = measure({"nexa launch": launch, "axolotl train": by_hand}, rounds=rounds)
    report("four steps of a two-layer model", timings, candidate="nexa launch", target="≤0.5 s more")
    pairs = zip(timings["nexa launch"].seconds, timings["axolotl train"].seconds, strict=True)
    added = sorted(ours - theirs for ours, theirs in pairs)
    print(f"  added: {added[len(added) // 2]:.2f} s (median of {rounds} rounds)")


if __name__ == "__main__":
    main(sys.argv[1:])
