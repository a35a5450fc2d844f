"""Where a worker runs: interpreter, packages, devices, threads. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from nexa.text import REDACTED, is_secret_name, redact

# Variables that change what training computes or how fast; others are not recorded.
_RECORDED = (
    "CUDA_",
    "HIP_",
    "ROCR_",
    "OMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "ONEDNN_",
    "TORCH",
    "PYTORCH",
    "NCCL_",
    "GLOO_",
    "HF_",
    "TRANSFORMERS_",
    "SLURM_",
    "NEXA_",
    "MALLOC_",
    "LD_PRELOAD",
    "PYTHONHASHSEED",
)


def environment_snapshot(
    environment: Mapping[str, str] | None = None, *, place: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a result depends on beside code and data, as JSON values without secrets.

    place: what the launch knows of the environment, such as the name and digest of a built one. `hash` is the
    same wherever Python, platform and all packages have the same versions.
    """
    variables = os.environ if environment is None else environment
    packages = _packages()
    return {
        "hash": _hash([platform.python_version(), platform.system(), platform.machine(), packages]),
        "place": dict(place or {}),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cpus": usable_cpus(),
        "memory_bytes": memory_bytes(),
        "gpus": gpu_names(),
        "packages": packages,
        "variables": {
            name: REDACTED if is_secret_name(name) else redact(value)
            for name, value in sorted(variables.items())
            if name.startswith(_RECORDED)
        },
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def usable_cpus() -> int:
    """Number of CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Memory of this machine in bytes, None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs the driver shows; empty without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def processor_name() -> str:
    """Model name of this machine's CPU; empty where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _packages() -> dict[str, str]:
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            versions.setdefault(name.lower(), distribution.version)
    return dict(sorted(versions.items()))
