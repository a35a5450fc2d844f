"""Meters of a worker: what they measure, that they reach the events, and the driver's library as its header says."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest

from nexa.events.reader import EventReader
from nexa.events.writer import EventWriter
from nexa.worker.meters import Meters, Usage, own_gpu
from nexa.worker.nvml import Gpu, gpu_of_rank

# The functions of nvml.h that are called, with its types: a driver's library without a GPU behind it.
_DRIVER = """
#include <string.h>
typedef struct { unsigned int gpu, memory; } use_t;
typedef struct { unsigned long long total, free, used; } memory_t;
static int device = 7;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **d) { *d = &device; return index == 1 ? 0 : 2; }
int nvmlDeviceGetHandleByUUID(const char *u, void **d) { *d = &device; return strcmp(u, "GPU-ab") ? 2 : 0; }
int nvmlDeviceGetName(void *d, char *name, unsigned int size) { strncpy(name, "NVIDIA Test", size); return 0; }
int nvmlDeviceGetUtilizationRates(void *d, use_t *u) { u->gpu = 97; u->memory = 3; return d != &device; }
int nvmlDeviceGetMemoryInfo(void *d, memory_t *m) { m->total = 150000000000; m->used = 70000000000; return 0; }
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned int *t) { *t = 61; return sensor; }
int nvmlDeviceGetPowerUsage(void *d, unsigned int *p) { *p = 512500; return 3; }
"""


@pytest.fixture
def driver(tmp_path):
    """A library with the driver's functions, made by a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "nvml.c", tmp_path / "libnvml.so"
    source.write_text(_DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def test_a_busy_process_shows(tmp_path):
    usage = Usage()
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        deadline = time.monotonic() + 20
        while (values := usage.read())["cpu_percent"] in (None, 0.0):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    assert values["rss_bytes"] > 10_000_000
    assert 0 < values["machine_memory_bytes"] < values["machine_memory_total_bytes"]


def test_meters_write_system_events_until_they_are_told_to_stop(tmp_path):
    writer = EventWriter(tmp_path / "1-0.jsonl")
    meters = Meters(writer, pytest.fail, gpu=None, seconds=0.01, first_seconds=0.0)
    meters.start()
    reader = EventReader(writer.path)
    records: list[dict] = []
    deadline = time.monotonic() + 20
    while len(records) < 2:
        assert time.monotonic() < deadline
        records += reader.poll()
    meters.finish()
    assert not meters.is_alive()
    assert {record["type"] for record in records} == {"system"}
    assert records[0]["gpus"] == []
    assert records[0]["rss_bytes"] > 0


def test_meters_that_can_not_write_say_so_once(tmp_path):
    writer = EventWriter(tmp_path / "1-0.jsonl")
    writer.close()
    failures: list[Exception] = []
    meters = Meters(writer, failures.append, gpu=None, seconds=0.01, first_seconds=0.0)
    meters.start()
    meters.join(20)
    assert len(failures) == 1


def test_a_gpu_is_read_as_the_header_says(driver):
    assert Gpu("1", library=driver).read() == {
        "gpu": "1",
        "name": "NVIDIA Test",
        "utilization_percent": 97,
        "memory_bytes": 70_000_000_000,
        "memory_total_bytes": 150_000_000_000,
        "temperature_celsius": 61,
        "power_watts": None,
    }
    assert Gpu("GPU-ab", library=driver).read()["name"] == "NVIDIA Test"
    with pytest.raises(OSError, match="HandleByIndex"):
        Gpu("0", library=driver)


def test_the_gpu_of_a_rank_is_among_those_it_may_see():
    assert gpu_of_rank(2, {}) == "2"
    assert gpu_of_rank(1, {"CUDA_VISIBLE_DEVICES": "4, GPU-ab"}) == "GPU-ab"
    assert gpu_of_rank(2, {"CUDA_VISIBLE_DEVICES": "4,5"}) is None
    assert gpu_of_rank(0, {"CUDA_VISIBLE_DEVICES": ""}) is None
    assert gpu_of_rank(0, {"CUDA_VISIBLE_DEVICES": "-1"}) is None
    assert own_gpu(0, {"CUDA_VISIBLE_DEVICES": ""}) is None
