"""Environments on disk: one folder each, named after its content, and names that point to them.

    envs/DIGEST/            a virtual environment; whole when it holds nexa-environment.json, written last
    names/NAME.json         what NAME stands for: a digest, and what it was asked for
    locks/                  held while one is built
    code/DIGEST/            the worker's part of Nexa, see `nexa.environments.code`
    runs/HASH.json          which run needs what of these, see `nexa.environments.claims`

Virtual environments hold absolute paths, so each is built where it stays; without its record it is nothing,
and the next build of it starts anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexa.environments.requirements import Needs
from nexa.errors import UserError
from nexa.files import read_json, write_json

RECORD = "nexa-environment.json"
LOCK_FILE = "requirements.lock"
SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED_NAMES = ("auto", "current")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One installed distribution: its version, and the SHA-256 of its list of files."""

    version: str
    record: str


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One built environment.

    digest: of lock, Python and platform, 64 hexadecimal digits. python: version. packages: by normalized
    name. built_by: "uv" or "pip". built_at: Unix seconds.
    """

    path: Path
    digest: str
    python: str
    platform: str
    packages: Mapping[str, Package]
    probes: Sequence[str]
    built_by: str
    built_at: float

    @property
    def interpreter(self) -> Path:
        """Its Python."""
        return interpreter_of(self.path)

    @property
    def versions(self) -> dict[str, str]:
        """Version of each package by normalized name."""
        return {name: package.version for name, package in self.packages.items()}


@dataclass(frozen=True, kw_only=True)
class NamedEnvironment:
    """A name, what it was asked to hold, and the environment it points to; None where that is gone.

    backend: the one whose needs it was built for.
    """

    name: str
    backend: str
    request: str
    requirements: Sequence[str]
    digest: str
    environment: Environment | None


class EnvironmentStore:
    """All environments below one folder, which several machines may share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, digest: str) -> Path:
        """Where the environment of this digest is, or will be."""
        return self.root / "envs" / digest

    def lock(self, key: str) -> Path:
        """Folder of the lock held while `key` is worked on; see `nexa.locks`."""
        return self.root / "locks" / key

    def load(self, digest: str) -> Environment | None:
        """The environment of this digest; None where it is absent, half-built or another format's."""
        return _read(self.folder(digest))

    def names(self) -> list[NamedEnvironment]:
        """Every name, in alphabetical order."""
        found = (self.find(path.stem) for path in sorted((self.root / "names").glob("*.json")))
        return [named for named in found if named is not None]

    def find(self, name: str) -> NamedEnvironment | None:
        """What a name stands for; None where there is no such name."""
        if not NAME.fullmatch(name):
            return None
        document = read_json(self.root / "names" / f"{name}.json")
        if document is None or document.get("schema") != SCHEMA:
            return None
        return NamedEnvironment(
            name=name,
            backend=document["backend"],
            request=document["request"],
            requirements=tuple(document["requirements"]),
            digest=document["digest"],
            environment=self.load(document["digest"]),
        )

    def require(self, name: str) -> NamedEnvironment:
        """What a name stands for. Raises UserError where there is no such name."""
        named = self.find(name)
        if named is None:
            known = ", ".join(other.name for other in self.names())
            raise UserError(
                f"there is no environment {name!r} in {self.root}",
                hint=f"there are: {known}" if known else "make one for a backend: nexa env create BACKEND",
            )
        return named

    def give_name(self, name: str, *, backend: str, request: str, requirements: Sequence[str], digest: str) -> None:
        """Let a name point to an environment, in one step. Raises OSError."""
        folder = self.root / "names"
        folder.mkdir(parents=True, exist_ok=True)
        document = {
            "schema": SCHEMA,
            "backend": backend,
            "request": request,
            "requirements": list(requirements),
            "digest": digest,
        }
        write_json(folder / f"{name}.json", document)

    def write_record(self, environment: Environment) -> None:
        """Declare an environment whole; the last step of a build. Raises OSError."""
        document = {"schema": SCHEMA, **asdict(environment)}
        del document["path"]
        write_json(environment.path / RECORD, document)

    def remove(self, name: str) -> bool:
        """Remove a name, and its environment where no other name points there; True where that went too.

        Raises UserError where there is no such name.
        """
        named = self.require(name)
        (self.root / "names" / f"{name}.json").unlink(missing_ok=True)
        if any(other.digest == named.digest for other in self.names()):
            return False
        remove_folder(self.folder(named.digest))
        return True

    def leftovers(self) -> Iterator[Path]:
        """Folders of builds that never ended and that nobody works on."""
        with contextlib.suppress(OSError):
            for folder in sorted((self.root / "envs").iterdir()):
                if _read(folder) is None and not self.lock(folder.name.removesuffix(_TRASH)).exists():
                    yield folder


_TRASH = ".removed"


def remove_folder(folder: Path) -> None:
    """Remove an environment so that a half-removed one does not look whole."""
    if not folder.exists():
        return
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def request_key(needs: Needs, extra: Sequence[str], python: str | None) -> str:
    """What an environment is asked to hold, as one hash: the same for equal needs on equal machines."""
    asked = [sorted({*needs.requirements, *extra}), needs.python, python, sorted(needs.probes), machine()]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def content_digest(lock: str, python: str) -> str:
    """Name of the environment with these locked packages on this Python and this platform."""
    return hashlib.sha256("\0".join((lock, python, machine())).encode()).hexdigest()


def machine() -> str:
    """What compiled packages depend on beside Python, such as "linux-x86_64-glibc"."""
    libc = platform.libc_ver()[0] or "libc"
    return f"{platform.system().lower()}-{platform.machine()}-{libc}"


def interpreter_of(folder: Path) -> Path:
    """The Python of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def new_environment(
    path: Path, *, digest: str, python: str, packages: Mapping[str, Package], probes: Sequence[str], built_by: str
) -> Environment:
    """An environment that was built just now, on this machine."""
    return Environment(
        path=path,
        digest=digest,
        python=python,
        platform=machine(),
        packages=dict(sorted(packages.items())),
        probes=tuple(probes),
        built_by=built_by,
        built_at=time.time(),
    )


def _read(folder: Path) -> Environment | None:
    document: dict[str, Any] | None = read_json(folder / RECORD)
    if document is None or document.pop("schema", None) != SCHEMA:
        return None
    packages = {name: Package(**package) for name, package in document.pop("packages").items()}
    return Environment(path=folder, packages=packages, **document)
