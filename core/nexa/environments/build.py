"""Building an environment: resolved to a lock, built once whoever asks, whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from nexa.environments.builders import Builder, Progress, Sources, find_builder
from nexa.environments.interpreters import Interpreter, find_interpreter
from nexa.environments.requirements import Needs, normal_name, specifiers
from nexa.environments.store import (
    LOCK_FILE,
    NAME,
    RESERVED_NAMES,
    Environment,
    EnvironmentStore,
    NamedEnvironment,
    Package,
    content_digest,
    interpreter_of,
    new_environment,
    remove_folder,
    request_key,
)
from nexa.errors import UserError
from nexa.locks import owned_lock

_PROBE = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
_PROBE_SECONDS = 600.0


def create(
    store: EnvironmentStore,
    needs: Needs,
    *,
    backend: str,
    name: str | None = None,
    python: str | None = None,
    extra: Sequence[str] = (),
    sources: Sources | None = None,
    builder: str | None = None,
    progress: Progress,
) -> NamedEnvironment:
    """Make the environment that a backend needs, or find it made; return it under its name.

    name: by default the backend's. python: version or path, by default the first one found that fits. extra:
    requirements beside the backend's. builder: "uv" or "pip". Of several processes that ask at once, on
    machines that share the folder too, one builds and the others wait for it. Raises UserError with the
    reason where it can't be made; nothing that looks whole is left then.
    """
    name = _checked_name(name or backend)
    key = request_key(needs, extra, python)
    ready = _ready(store, name, key)
    if ready is not None:
        return ready
    try:
        with owned_lock(store.lock(key), on_wait=_waiting(progress)):
            ready = _ready(store, name, key) or _same_request(store, key)
            if ready is None:
                environment = _make(store, needs, python, extra, sources or Sources(), find_builder(builder), progress)
                digest = environment.digest
            else:
                digest = ready.digest
            requirements = sorted({*needs.requirements, *extra})
            store.give_name(name, backend=backend, request=key, requirements=requirements, digest=digest)
    except OSError as error:
        raise _cannot_write(store.root, error) from error
    return store.require(name)


def _ready(store: EnvironmentStore, name: str, key: str) -> NamedEnvironment | None:
    named = store.find(name)
    return named if named is not None and named.request == key and named.environment is not None else None


def _same_request(store: EnvironmentStore, key: str) -> NamedEnvironment | None:
    """Another name that was given to the answer of the same request."""
    return next((named for named in store.names() if named.request == key and named.environment is not None), None)


def _make(
    store: EnvironmentStore,
    needs: Needs,
    python: str | None,
    extra: Sequence[str],
    sources: Sources,
    builder: Builder,
    progress: Progress,
) -> Environment:
    interpreter = find_interpreter(specifiers(needs.python, needs.asker), asker=needs.asker, named=python)
    requirements = sorted({*needs.requirements, *extra})
    progress(f"resolving {len(requirements)} requirements with {builder.name} for Python {interpreter.version}")
    lock = ""
    if requirements:
        asker = f"{needs.asker} with {', '.join(extra)}" if extra else needs.asker
        lock = builder.resolve(interpreter.path, requirements, sources, asker=asker, progress=progress)
    digest = content_digest(lock, interpreter.version)
    with owned_lock(store.lock(digest), on_wait=_waiting(progress)):
        return store.load(digest) or _build(store, needs, interpreter, lock, digest, sources, builder, progress)


def _build(
    store: EnvironmentStore,
    needs: Needs,
    interpreter: Interpreter,
    lock: str,
    digest: str,
    sources: Sources,
    builder: Builder,
    progress: Progress,
) -> Environment:
    """Build where the environment stays, and declare it whole last."""
    folder = store.folder(digest)
    # What a killed build left.
    remove_folder(folder)
    try:
        progress(f"making {folder}")
        _make_venv(interpreter, folder)
        lock_file = folder / LOCK_FILE
        lock_file.write_text(lock, encoding="utf-8")
        if lock:
            progress(f"installing {count_packages(lock)} packages with {builder.name}")
            builder.install(interpreter_of(folder), lock_file, sources, asker=needs.asker, progress=progress)
        if needs.probes:
            progress(f"importing {', '.join(needs.probes)}")
            _probe(folder, needs)
        environment = new_environment(
            folder,
            digest=digest,
            python=interpreter.version,
            packages=installed_packages(folder),
            probes=needs.probes,
            built_by=builder.name,
        )
        # A power cut must not leave the record of an environment whose files are empty.
        os.sync()
        store.write_record(environment)
    except BaseException:
        remove_folder(folder)
        raise
    return environment


def _make_venv(interpreter: Interpreter, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    answer = subprocess.run(
        [str(interpreter.path), "-I", "-m", "venv", "--without-pip", str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        lines = (answer.stderr or answer.stdout).strip().splitlines()
        raise UserError(
            f"{interpreter.path} can't make a virtual environment: {lines[-1] if lines else answer.returncode}",
            hint="on Debian and Ubuntu: apt install python3-venv; or name another Python: --python",
        )


def _probe(folder: Path, needs: Needs) -> None:
    """Import what the backend will import. Raises UserError with the reason where that fails."""
    command = [str(interpreter_of(folder)), "-I", "-c", _PROBE, *needs.probes]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"importing {', '.join(needs.probes)} did not end within {_PROBE_SECONDS:g} s") from None
    if answer.returncode:
        lines = answer.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"exit code {answer.returncode}"
        raise UserError(f"the environment was installed, but {needs.asker} can't be imported in it: {reason}")


def installed_packages(folder: Path) -> dict[str, Package]:
    """The distributions in a virtual environment, by normalized name."""
    found = {}
    for distribution in distributions(folder):
        record = distribution.read_text("RECORD") or ""
        found[normal_name(distribution.metadata["Name"])] = Package(
            version=distribution.version, record=hashlib.sha256(record.encode()).hexdigest()
        )
    return found


def distributions(folder: Path) -> list[metadata.Distribution]:
    """What is installed in a virtual environment."""
    return list(metadata.distributions(path=[str(path) for path in site_folders(folder)]))


def site_folders(folder: Path) -> list[Path]:
    """The folders of a virtual environment that hold packages."""
    return sorted(folder.glob("lib/python3*/site-packages")) or [folder / "Lib" / "site-packages"]


def count_packages(lock: str) -> int:
    """Number of packages in a lock."""
    return sum(1 for line in lock.splitlines() if line and not line[0].isspace() and line[0] != "#")


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise UserError(
            f"{name!r} can't be an environment's name",
            hint="1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit; "
            f"not {' or '.join(RESERVED_NAMES)}",
        )
    return name


def _waiting(progress: Progress) -> Progress:
    said = set()

    def tell(holder: str) -> None:
        if holder not in said:
            said.add(holder)
            progress(f"waiting for {holder}, which builds it")

    return tell


def _cannot_write(root: Path, error: OSError) -> UserError:
    free = ""
    if error.errno == 28:
        existing = next(path for path in (root, *root.parents) if path.exists())
        free = f" ({shutil.disk_usage(existing).free / 2**20:.0f} MiB free)"
    return UserError(
        f"environments can't be written to {root}: {error.strerror or error}{free}",
        hint="free some space, or set NEXA_ENVIRONMENTS_DIR to another folder",
    )
