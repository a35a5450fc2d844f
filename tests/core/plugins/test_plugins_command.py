"""`nexa plugins`, as a person and as a program sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

BACKEND = """
import nexa
from nexa.specs import BackendSpec

@nexa.hookimpl
def nexa_register_backends():
    return [BackendSpec(name="torch", summary="Another torch.", factory="a:B", methods=("sft",))]
"""


@pytest.fixture
def nexa(packages):
    """Runs the command with the synthetic distributions installed."""

    def run(*arguments, **variables):
        environment = {**os.environ, "PYTHONPATH": str(packages.folder), **variables}
        return subprocess.run(
            [sys.executable, "-m", "nexa.cli.main", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_table_shows_broken_plugins_and_the_sound_ones(packages, nexa):
    packages.add("broken", "raise SystemExit('\\x1b[31mgone')")
    answer = nexa("plugins")
    assert answer.returncode == 0
    rows = {line.split()[0]: line for line in answer.stdout.splitlines()}
    assert " error " in rows["broken"]
    assert "nexa-broken" in rows["broken"]
    assert " ok " in rows["torch"]
    assert "1 with a problem" in answer.stderr
    assert "\x1b" not in answer.stdout


def test_json_has_every_field(packages, nexa):
    packages.add("broken", "import no_such_library")
    entries = json.loads(nexa("plugins", "--json").stdout)
    (broken,) = [entry for entry in entries if entry["entry_point"] == "broken"]
    assert {key: broken[key] for key in ("name", "kind", "distribution", "version", "status")} == {
        "name": "broken",
        "kind": "",
        "distribution": "nexa-broken",
        "version": "1.0",
        "status": "error",
    }
    assert "no_such_library" in broken["traceback"]


def test_a_name_shows_the_traceback(packages, nexa):
    packages.add("broken", "import no_such_library")
    for arguments in (("broken",), ("--errors",)):
        answer = nexa("plugins", *arguments)
        assert "broken: error" in answer.stdout
        assert "Traceback (most recent call last)" in answer.stdout
        assert "torch: ok" not in answer.stdout


def test_no_problem_is_said(nexa):
    assert nexa("plugins", "--errors").stdout == "no plugin has a problem\n"


def test_an_unknown_name_is_a_user_error(nexa):
    answer = nexa("plugins", "nothing")
    assert answer.returncode == 2
    assert "there is no plugin 'nothing'" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_no_plugins_isolates_from_third_parties(packages, nexa):
    packages.add("thief", BACKEND)
    packages.add("broken", "raise ValueError")
    entries = json.loads(nexa("--no-plugins", "plugins", "--json").stdout)
    status = {entry["entry_point"]: entry["status"] for entry in entries}
    assert (status["thief"], status["broken"], status["torch"]) == ("off", "off", "ok")


def test_a_second_provider_of_a_first_party_name_is_shown(packages, nexa):
    packages.add("thief", BACKEND)
    entries = json.loads(nexa("plugins", "--json").stdout)
    found = {entry["entry_point"]: entry for entry in entries if entry["name"] == "torch"}
    assert found["thief"]["status"] == "duplicate"
    assert "nexa-train" in found["thief"]["message"]
    assert "nexa-thief" in found["torch"]["message"]


def test_a_misspelt_allow_list_is_a_user_error(nexa):
    answer = nexa("plugins", NEXA_LOAD_PLUGINS="troch")
    assert answer.returncode == 2
    assert "no such entry point is installed" in answer.stderr
