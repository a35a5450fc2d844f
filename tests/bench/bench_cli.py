"""Start-up of `nexa` commands against the help pages of other trainers.

Targets: `nexa --help` no slower than `trl --help`; commands that list or plan ≤0.3 s on the machine
where `trl --help` takes 0.15 s, so ≤2x of it here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench._measure import measure, report

COMMANDS = (
    ("--help",),
    ("recipe", "list"),
    ("runs",),
    ("plugins",),
    ("artifacts", "list"),
    ("launch", "quickstart", "--explain"),
)
PEERS = {
    "trl": ("--help",),
    "axolotl": ("--help",),
    "llamafactory-cli": ("help",),
    "litgpt": ("--help",),
}


def main(argv: Sequence[str] = ()) -> None:
    """Time every command and every peer that is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="PATH", help="program of a peer; default: those found on PATH"
    )
    options = parser.parse_args(argv)
    peers = dict(find_peers(options.peer))
    with tempfile.TemporaryDirectory() as folder:
        for words in COMMANDS:
            nexa = f"nexa {' '.join(words)}"
            candidates = {
                nexa: command([str(Path(sys.executable).with_name("nexa")), *words], folder),
                "python -c pass": command([sys.executable, "-c", "pass"], folder),
                **{name: command(argv, folder) for name, argv in peers.items()},
            }
            target = "≤1x trl --help" if words == ("--help",) else "≤2x trl --help"
            report(nexa, measure(candidates, rounds=options.rounds), candidate=nexa, target=target)


def find_peers(given: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The peers to compare with: label and command line."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    programs = list(given) or [path for path in (shutil.which(name, path=places) for name in PEERS) if path]
    labelled = [(Path(path).name, path) for path in programs]
    missing = sorted(set(PEERS) - {name for name, _ in labelled})
    print(f"peers: {', '.join(name for name, _ in labelled) or 'none'}; not installed: {', '.join(missing) or 'none'}")
    return [
        (f"{name} {' '.join(PEERS.get(name, ('--help',)))}", [path, *PEERS.get(name, ("--help",))])
        for name, path in labelled
    ]


def command(argv: Sequence[str], folder: str) -> Callable[[], object]:
    """A call that runs a command line to its end. Raises CalledProcessError when it fails."""

    def call() -> object:
        return subprocess.run(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    return call
