"""What NVIDIA's driver says of a GPU, by its management library (NVML). Standard library only.

The functions and their structures are those of the public header nvml.h
(https://docs.nvidia.com/deploy/nvml-api/).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_SUCCESS = 0
_TEMPERATURE_GPU = 0
_NAME_BYTES = 96


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Gpu:
    """One GPU of this machine.

    identifier: its number as the driver counts, or its UUID, as in CUDA_VISIBLE_DEVICES. Raises
    OSError when there is no driver or no such GPU.
    """

    def __init__(self, identifier: str, *, library: str = _LIBRARY) -> None:
        self._nvml = ctypes.CDLL(library)
        self._handle = ctypes.c_void_p()
        handle = ctypes.byref(self._handle)
        self._require("nvmlInit_v2")
        if identifier.isdigit():
            self._require("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(identifier)), handle)
        else:
            self._require("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(identifier.encode()), handle)
        name = ctypes.create_string_buffer(_NAME_BYTES)
        known = self._ask("nvmlDeviceGetName", self._handle, name, ctypes.c_uint(_NAME_BYTES))
        self._name = name.value.decode("utf-8", "replace") if known else ""
        self._identifier = identifier

    def read(self) -> dict[str, Any]:
        """The GPU now; values that it can't tell, as in parts of a divided one, are None.

        utilization_percent: share of the time in which a kernel ran. memory_bytes: in use by all processes.
        """
        use, memory = _Utilization(), _Memory()
        temperature, power = ctypes.c_uint(), ctypes.c_uint()
        ask, handle = self._ask, self._handle
        knows_use = ask("nvmlDeviceGetUtilizationRates", handle, ctypes.byref(use))
        knows_memory = ask("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        knows_temperature = ask(
            "nvmlDeviceGetTemperature", handle, ctypes.c_uint(_TEMPERATURE_GPU), ctypes.byref(temperature)
        )
        knows_power = ask("nvmlDeviceGetPowerUsage", handle, ctypes.byref(power))
        return {
            "gpu": self._identifier,
            "name": self._name,
            "utilization_percent": int(use.gpu) if knows_use else None,
            "memory_bytes": int(memory.used) if knows_memory else None,
            "memory_total_bytes": int(memory.total) if knows_memory else None,
            "temperature_celsius": int(temperature.value) if knows_temperature else None,
            "power_watts": power.value / 1000 if knows_power else None,
        }

    def _ask(self, function: str, *arguments: Any) -> bool:
        """Call a function; whether it succeeded. Old drivers lack some."""
        try:
            return bool(getattr(self._nvml, function)(*arguments) == _SUCCESS)
        except AttributeError:
            return False

    def _require(self, function: str, *arguments: Any) -> None:
        if not self._ask(function, *arguments):
            raise OSError(f"{function} failed")


def gpu_of_rank(local_rank: int, environment: Mapping[str, str]) -> str | None:
    """Which GPU a process of this local rank uses, as CUDA numbers those it may see; None when it may see none."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(local_rank)
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return names[local_rank] if local_rank < len(names) and names[local_rank] != "-1" else None
