"""What each entry into Nexa may import: listings are quick, and workers need the standard library alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nexa

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "numpy", "textual", "tensorboard", "wandb")
FOR_RECIPES = ("pydantic", "ruamel.yaml")

WORKER_MODULES = (
    "nexa",
    "nexa.artifacts",
    "nexa.backend",
    "nexa.errors",
    "nexa.events",
    "nexa.events.writer",
    "nexa.files",
    "nexa.manifest",
    "nexa.observer",
    "nexa.scheduler",
    "nexa.specs",
    "nexa.testing.idle",
    "nexa.text",
    "nexa.worker",
    *sorted(
        f"nexa.worker.{path.stem}"
        for path in (Path(nexa.__file__).parent / "worker").glob("*.py")
        if path.stem not in ("__init__", "__main__")
    ),
)
CONTRACT_MODULES = ("nexa.distiller", "nexa.hookspecs", "nexa.plugins", "nexa.discovery", "nexa.extras")

_COMMAND = """
import sys
from nexa.cli.main import main
code = main(sys.argv[1].split())
print("\\nMODULES", *sys.modules)
raise SystemExit(code)
"""
_IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
__import__(sys.argv[2])
print("MODULES", *sys.modules)
"""


def modules_after(*command, cwd=None):
    """Names of the modules a fresh interpreter has imported."""
    answer = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ}
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    ("arguments", "banned"),
    [
        ("--help", (*HEAVY, *FOR_RECIPES, "rich", "pluggy", "importlib.metadata", "structlog", "msgspec")),
        ("--version", (*HEAVY, *FOR_RECIPES, "rich", "pluggy", "importlib.metadata", "structlog", "msgspec")),
        ("plugins", (*HEAVY, *FOR_RECIPES, "rich", "structlog")),
        ("plugins --json", (*HEAVY, *FOR_RECIPES, "rich", "structlog")),
        ("recipe list", HEAVY),
        ("runs", HEAVY),
        ("launch --help", (*HEAVY, "structlog")),
    ],
)
def test_commands_import_no_more_than_they_need(arguments, banned, tmp_path):
    loaded = modules_after("-c", _COMMAND, arguments, cwd=tmp_path)
    assert loaded & set(banned) == set()


@pytest.mark.parametrize("module", WORKER_MODULES)
def test_what_a_worker_imports_is_standard_library_only(module):
    """-S and -I: no installed package is within reach, only the folder that holds `nexa`."""
    source = str(Path(nexa.__file__).parents[1])
    loaded = modules_after("-S", "-I", "-c", _IMPORT, source, module)
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"nexa", "__main__"}
    assert foreign == set()


@pytest.mark.parametrize("module", CONTRACT_MODULES)
def test_contracts_and_the_host_reach_nothing_heavy(module):
    source = str(Path(nexa.__file__).parents[1])
    loaded = modules_after("-c", _IMPORT, source, module)
    assert loaded & {*HEAVY, *FOR_RECIPES, "rich", "click"} == set()


@pytest.mark.parametrize("plugin", ["nexa_distill", "nexa_file", "nexa_local", "nexa_torch", "nexa_track"])
def test_first_party_plugins_register_without_their_libraries(plugin):
    source = str(Path(nexa.__file__).parents[1])
    loaded = modules_after("-c", _IMPORT, source, f"{plugin}.plugin")
    assert loaded & {*HEAVY, *FOR_RECIPES, "rich", "click"} == set()
