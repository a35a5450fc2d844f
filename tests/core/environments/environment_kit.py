"""Small real wheels, what a backend called demo asks for, and the command with nexa-echo installed."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from nexa.environments.requirements import Needs

ECHO = Path(__file__).parents[2] / "packages" / "nexa-echo"


def make_wheel(folder: Path, name: str, version: str, *, requires: Sequence[str] = (), body: str = "") -> None:
    """Write a wheel with one module."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": body or f"version = {version!r}\n",
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {line}\n" for line in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text)}"
        for path, text in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)


def needs(*requirements: str, python: str = ">=3.10", probes: Sequence[str] = ()) -> Needs:
    """What a backend called demo asks for."""
    return Needs(asker="backend demo", requirements=requirements, python=python, probes=tuple(probes))


class Nexa:
    """Runs `nexa` with nexa-echo installed, in a folder of its own."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.folder = folder
        self.variables = {
            **os.environ,
            "PYTHONPATH": str(site),
            "NEXA_RUNS_DIR": str(folder / "runs"),
            "NEXA_STORE_URI": str(folder / "artifacts"),
            "NEXA_ENVIRONMENTS_DIR": str(folder / "environments"),
        }

    def __call__(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "nexa.cli.main", *words],
            cwd=self.folder,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
