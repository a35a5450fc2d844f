"""uv and pip: resolving requirements to a lock with hashes, and installing exactly that."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, ClassVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from nexa.environments.failures import explain
from nexa.errors import UserError

Progress = Callable[[str], None]
"""Called with what is going on, in words; may raise to stop the work."""

_QUIET = {"PYTHONSAFEPATH": "1", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
_DIED_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
# pip's variables for where packages come from, and what uv calls them; values may hold passwords.
_UV_NAMES = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where packages come from beside the index that uv or pip is set up for.

    find_links: folders or pages with files to install. index: False to use those alone.
    """

    find_links: Sequence[str] = ()
    index: bool = True

    def options(self) -> list[str]:
        """Options that both uv and pip understand."""
        links = [word for place in self.find_links for word in ("--find-links", place)]
        return links if self.index else [*links, "--no-index"]


class Builder(ABC):
    """A program that resolves and installs packages."""

    name: ClassVar[str]

    @abstractmethod
    def resolve(
        self, python: Path, requirements: Sequence[str], sources: Sources, *, asker: str, progress: Progress
    ) -> str:
        """Return the lock: one line for each package, with version and hashes. Raises UserError."""

    @abstractmethod
    def install(self, python: Path, lock: Path, sources: Sources, *, asker: str, progress: Progress) -> None:
        """Install exactly what a lock says into the environment of this Python. Raises UserError."""


class Uv(Builder):
    """https://docs.astral.sh/uv/; program: where it is."""

    name = "uv"

    def __init__(self, program: str) -> None:
        self.program = program

    def resolve(
        self, python: Path, requirements: Sequence[str], sources: Sources, *, asker: str, progress: Progress
    ) -> str:
        """See `Builder.resolve`."""
        with _requirements_file(requirements) as file:
            options = ["--generate-hashes", "--no-header", "--no-annotate", "--python", str(python)]
            command = [self.program, "pip", "compile", *options, *sources.options(), str(file)]
            with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
                _run(command, asker=asker, progress=progress, output=output, variables=_uv_variables())
                output.seek(0)
                return output.read()

    def install(self, python: Path, lock: Path, sources: Sources, *, asker: str, progress: Progress) -> None:
        """See `Builder.install`; files are copied, so that a change in one environment stays there."""
        options = ["--require-hashes", "--no-deps", "--link-mode=copy", "--compile-bytecode", "--python", str(python)]
        command = [self.program, "pip", "install", *options, *sources.options(), "-r", str(lock)]
        _run(command, asker=asker, progress=progress, variables=_uv_variables())


class Pip(Builder):
    """The pip of the running environment; it works in others through its option --python."""

    name = "pip"

    def resolve(
        self, python: Path, requirements: Sequence[str], sources: Sources, *, asker: str, progress: Progress
    ) -> str:
        """See `Builder.resolve`."""
        with _requirements_file(requirements) as file:
            report = file.with_suffix(".json")
            options = ["--dry-run", "--ignore-installed", "--report", str(report)]
            _run(
                [*_pip(python), "install", *options, *sources.options(), "-r", str(file)],
                asker=asker,
                progress=progress,
            )
            return "".join(_lock_lines(json.loads(report.read_text(encoding="utf-8")), asker))

    def install(self, python: Path, lock: Path, sources: Sources, *, asker: str, progress: Progress) -> None:
        """See `Builder.install`."""
        options = ["--require-hashes", "--no-deps", "--no-warn-script-location"]
        _run([*_pip(python), "install", *options, *sources.options(), "-r", str(lock)], asker=asker, progress=progress)


def find_builder(name: str | None = None) -> Builder:
    """uv where it is, else pip; or the one that is named. Raises UserError where it is not here."""
    # Installed beside the running Python, it is found without its folder on PATH too.
    program = shutil.which("uv") or shutil.which("uv", path=sysconfig.get_path("scripts"))
    if name in (None, "uv") and program is not None:
        return Uv(program)
    if name in (None, "pip") and find_spec("pip") is not None:
        return Pip()
    raise UserError(
        f"there is no {name or 'uv and no pip'} to build an environment with",
        hint="install uv (https://docs.astral.sh/uv/), or: python -m ensurepip",
    )


def _pip(python: Path) -> list[str]:
    return [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--no-input"]


def _lock_lines(report: Mapping[str, Any], asker: str) -> Iterator[str]:
    """A lock from pip's installation report (https://pip.pypa.io/en/stable/reference/installation-report/)."""
    for item in sorted(report["install"], key=lambda item: str(item["metadata"]["name"]).lower()):
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        url = item["download_info"]["url"]
        sha256 = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256") or _local_hash(url)
        if sha256 is None:
            raise UserError(
                f"{asker} asks for {name} from {url}, which has no hash to lock it by",
                hint="build a wheel of it (pip wheel) and name its folder with --find-links",
            )
        place = f"{name} @ {url}" if item.get("is_direct") else f"{name}=={version}"
        yield f"{place} --hash=sha256:{sha256}\n"


def _local_hash(url: str) -> str | None:
    """SHA-256 in hex of a file on this machine, which pip before 23.1 does not tell; None for what is no such file."""
    parts = urlsplit(url)
    path = Path(url2pathname(parts.path))
    if parts.scheme != "file" or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _uv_variables() -> dict[str, str]:
    """uv reads none of pip's settings; people who set those mean them."""
    return {ours: os.environ[pips] for pips, ours in _UV_NAMES.items() if pips in os.environ and ours not in os.environ}


class _requirements_file:  # noqa: N801 - reads as a function
    """A file of requirements in a folder of its own, for as long as the block runs."""

    def __init__(self, requirements: Sequence[str]) -> None:
        self._requirements = requirements

    def __enter__(self) -> Path:
        self._folder = tempfile.TemporaryDirectory(prefix="nexa-env-")
        path = Path(self._folder.name) / "requirements.in"
        path.write_text("".join(f"{line}\n" for line in self._requirements), encoding="utf-8")
        return path

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def _run(
    command: Sequence[str],
    *,
    asker: str,
    progress: Progress,
    output: IO[str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run a builder and hand its lines on. Raises UserError with its reason.

    output: takes what the builder prints on standard output, where that is its result and not its progress.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output if output is not None else subprocess.PIPE,
            stderr=subprocess.PIPE if output is not None else subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(variables or {}), **_QUIET},
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    except OSError as error:
        raise UserError(f"{command[0]} can't be started: {error.strerror or error}") from error
    lines = []
    try:
        stream = process.stdout if output is None else process.stderr
        assert stream is not None
        with stream:
            for line in stream:
                lines.append(line)
                progress(line.strip())
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code:
        raise explain("".join(lines), asker=asker, command=command)


def _die_with_parent() -> None:
    """A build that outlived a killed Nexa would write into the folder of the next one."""
    ctypes.CDLL(None).prctl(_DIED_WITH_PARENT, signal.SIGKILL)
