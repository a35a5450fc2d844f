"""An environment changed by hand is found, and what was changed is named."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nexa.environments.build import site_folders
from nexa.environments.verify import changes


def test_as_built(built):
    assert list(changes(built[1].environment)) == []


def site(environment):
    return site_folders(environment.path)[0]


def edit(environment):
    (site(environment) / "tiny.py").write_text("version = 'mine'\n")


def delete(environment):
    (site(environment) / "needy.py").unlink()


def add_module(environment):
    (site(environment) / "sitecustomize.py").write_text("print('hello')\n")


def forge(environment):
    edit(environment)
    record = next(site(environment).glob("tiny-*.dist-info/RECORD"))
    record.write_text(record.read_text().replace("tiny.py,sha256=", "tiny.py,#"))


def break_python(environment):
    environment.interpreter.unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit, "tiny: tiny.py was changed"),
        (delete, "needy: needy.py is gone"),
        (add_module, "sitecustomize.py was added"),
        (forge, "tiny: its list of files was changed"),
        (break_python, "does not start"),
    ],
)
def test_changes_by_hand(own_copy, change, words):
    store, name = own_copy
    environment = store.require(name).environment
    change(environment)
    assert any(words in found for found in changes(environment)), list(changes(environment))


def test_what_pip_did_to_it(own_copy, wheels):
    store, name = own_copy
    environment = store.require(name).environment
    pip = [sys.executable, "-m", "pip", "--python", str(environment.interpreter), "install", "-q", "--no-index"]
    subprocess.run([*pip, "--find-links", str(wheels), "--no-deps", "tiny==2.0", "broken"], check=True)
    found = list(changes(environment))
    assert "tiny is 2.0, it was 1.0" in found
    assert "broken 1.0 was added" in found
