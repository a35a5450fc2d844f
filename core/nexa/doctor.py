"""What this machine offers a training run, as findings that say what to type.

Nothing here imports a training library: torch is asked in a process of its own with a time limit,
so that a broken or hanging installation becomes a finding.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from nexa import __version__
from nexa.errors import NexaError
from nexa.extras import extras_of, pip_line
from nexa.plugins import get_host
from nexa.worker.environment import gpu_names, memory_bytes, processor_name, usable_cpus

PROBE_TIMEOUT_S = 60.0
LOW_DISK_BYTES = 5 * 2**30
LOW_MEMORY_BYTES = 2 * 2**30

_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_TORCH_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "hip": torch.version.hip,
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "mps": torch.backends.mps.is_available(),
    "cpu": torch.backends.cpu.get_cpu_capability(),
}))
"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at.

    status: "ok"; "warn", training works but something is worth knowing; "missing", local training
    can't work. detail: what was found. fix: what to type or do, empty when nothing.
    """

    name: str
    status: Literal["ok", "warn", "missing"]
    detail: str
    fix: str = ""


def examine() -> list[Finding]:
    """Look at everything and return the findings in the order of a report; never raises NexaError."""
    return [
        _python(),
        _nexa(),
        _torch(),
        *_extras(),
        _cpu(),
        _memory(),
        *_folders(),
        *_plugins(),
        *_environments(),
        _slurm(),
    ]


def _python() -> Finding:
    detail = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    return Finding(name="python", status="ok", detail=detail)


def _nexa() -> Finding:
    return Finding(name="nexa", status="ok", detail=f"{__version__} ({Path(__file__).parent})")


def _torch() -> Finding:
    """Ask torch itself, in another process."""
    install = pip_line("torch")
    try:
        installed = version("torch")
    except PackageNotFoundError:
        return Finding(name="torch", status="missing", detail="not installed", fix=install)
    try:
        probe = subprocess.run(
            # -P: a file called torch.py in the current folder is not what a worker would import.
            [sys.executable, "-P", "-c", _TORCH_PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        detail = f"{installed} is installed, but importing it took over {PROBE_TIMEOUT_S:g} s"
        return Finding(
            name="torch", status="missing", detail=detail, fix=f'python -X importtime -c "import torch"; {install}'
        )
    if probe.returncode != 0:
        lines = probe.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"exit code {probe.returncode}"
        detail = f"{installed} is installed but can't be imported: {reason}"
        return Finding(
            name="torch", status="missing", detail=detail, fix=f"pip install --force-reinstall torch, or {install}"
        )
    return _describe_torch(json.loads(probe.stdout.splitlines()[-1]))


def _describe_torch(facts: dict[str, Any]) -> Finding:
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else f"ROCm {facts['hip']}" if facts["hip"] else "CPU build"
    devices = [*facts["gpus"], *(["MPS"] if facts["mps"] else []), f"CPU ({facts['cpu']})"]
    detail = f"{facts['version']}, {build}; devices: {', '.join(devices)}"
    if not facts["gpus"] and (present := gpu_names()):
        fix = "check `nvidia-smi`; install a torch build for your driver: https://pytorch.org/get-started/locally/"
        return Finding(
            name="torch", status="warn", detail=f"{detail}; torch does not see {', '.join(present)}", fix=fix
        )
    return Finding(name="torch", status="ok", detail=detail)


def _extras() -> Iterator[Finding]:
    """One finding for each of Nexa's extras; only what training needs may be missing."""
    for extra, packages in extras_of().items():
        absent = [package for package in packages if not _is_installed(package)]
        if not absent:
            yield Finding(name=f"[{extra}]", status="ok", detail="installed")
            continue
        needed = extra == "torch"
        detail = f"not installed{'' if needed else ', optional'}: {', '.join(absent)}"
        status: Literal["ok", "missing"] = "missing" if needed else "ok"
        yield Finding(name=f"[{extra}]", status=status, detail=detail, fix=pip_line(extra))


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _cpu() -> Finding:
    model = processor_name() or platform.machine()
    features = ", ".join(_cpu_features()) or "no AVX2"
    return Finding(name="cpu", status="ok", detail=f"{model}, {usable_cpus()} cores usable; {features}")


def _cpu_features() -> list[str]:
    """Instruction sets that make training faster, as Linux names them; none where it can't be told."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    present = set(flags.partition(":")[2].split())
    return [feature for feature in _CPU_FEATURES if feature in present]


def _memory() -> Finding:
    total, limit = memory_bytes(), _memory_limit()
    if total is None:
        return Finding(name="memory", status="warn", detail="this system does not say how much there is")
    usable = min(total, limit) if limit is not None else total
    detail = f"{_gibibytes(usable)} usable" + (f" of {_gibibytes(total)} (cgroup limit)" if usable < total else "")
    if usable < LOW_MEMORY_BYTES:
        return Finding(name="memory", status="warn", detail=detail, fix="the quickstart needs about 2 GiB")
    return Finding(name="memory", status="ok", detail=detail)


def _memory_limit() -> int | None:
    """Memory limit of this control group in bytes, None when there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None


def _folders() -> Iterator[Finding]:
    """Whether runs and artifacts can be written, and how much room there is."""
    from nexa.settings import get_settings

    try:
        settings = get_settings()
    except NexaError as error:
        yield Finding(name="settings", status="missing", detail=error.message, fix=error.hint or "")
        return
    yield _folder("runs", Path(settings.runs_dir), "NEXA_RUNS_DIR")
    store = urlsplit(settings.store_uri)
    if store.scheme == "file":
        yield _folder("store", Path(unquote(store.path)), "NEXA_STORE_URI")
    else:
        yield Finding(name="store", status="ok", detail=settings.store_uri)


def _folder(name: str, path: Path, variable: str) -> Finding:
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        detail = f"{path} can't be written: {existing} is not a folder you may write to"
        return Finding(name=name, status="missing", detail=detail, fix=f"export {variable}=/a/folder/you/own")
    free = shutil.disk_usage(existing).free
    detail = f"{path}, {_gibibytes(free)} free"
    if free < LOW_DISK_BYTES:
        return Finding(
            name=name, status="warn", detail=detail, fix=f"free some space or set {variable} to a larger disk"
        )
    return Finding(name=name, status="ok", detail=detail)


def _plugins() -> Iterator[Finding]:
    """One finding for each plugin with a problem, or one that says all is well."""
    try:
        report = get_host().report()
    except NexaError as error:
        yield Finding(name="plugins", status="missing", detail=error.message, fix=error.hint or "")
        return
    troubled = [entry for entry in report if entry.status in ("error", "duplicate", "slow")]
    for entry in troubled:
        kind = f"{entry.kind} " if entry.kind else ""
        yield Finding(
            name="plugins",
            status="warn",
            detail=f"{kind}{entry.name} of {entry.distribution} {entry.version}: {entry.status}: {entry.message}",
            fix=f"nexa plugins {entry.name}",
        )
    if not troubled:
        yield Finding(name="plugins", status="ok", detail=", ".join(sorted({entry.name for entry in report})) or "none")


def _environments() -> Iterator[Finding]:
    """Built environments that can't be used, and pins of backends that contradict each other."""
    from nexa.environments.conflicts import conflicts
    from nexa.environments.store import EnvironmentStore
    from nexa.settings import get_settings

    try:
        store = EnvironmentStore(get_settings().environments_dir)
        built = store.names()
        found = conflicts(store)
    except NexaError as error:
        yield Finding(name="environments", status="warn", detail=error.message, fix=error.hint or "")
        return
    broken = [named.name for named in built if named.environment is None or not named.environment.interpreter.exists()]
    if broken:
        yield Finding(
            name="environments",
            status="warn",
            detail=f"can't be used: {', '.join(broken)}",
            fix="nexa env doctor",
        )
    else:
        detail = ", ".join(named.name for named in built) or "none built; recipes run in this one"
        yield Finding(name="environments", status="ok", detail=detail)
    for conflict in found:
        yield Finding(
            name="backends",
            status="ok",
            detail=f"can't share an environment: {conflict}",
            fix="give one its own: nexa env create BACKEND",
        )


def _slurm() -> Finding:
    sbatch = shutil.which("sbatch")
    return Finding(name="slurm", status="ok", detail=sbatch or "no sbatch here; local runs only")


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
