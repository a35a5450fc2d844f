"""Environments are built once, whole or not there, and refusals say why. With real uv, pip and wheels."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from environment_kit import needs

from nexa.environments import build
from nexa.environments.builders import Sources
from nexa.environments.store import LOCK_FILE, RECORD, EnvironmentStore
from nexa.errors import UserError

_CREATE = """
import os, signal, sys
from pathlib import Path
from nexa.environments.build import create
from nexa.environments.builders import Sources
from nexa.environments.requirements import Needs
from nexa.environments.store import EnvironmentStore
root, wheels, stop_at = sys.argv[1:]
def say(text):
    print(text, flush=True)
    if stop_at != "-" and text.startswith(stop_at):
        os.kill(os.getpid(), signal.SIGKILL)
needs = Needs(asker="backend demo", requirements=("tiny",), python=">=3.10", probes=("tiny",))
create(EnvironmentStore(Path(root)), needs, backend="demo", builder="uv", progress=say,
       sources=Sources(find_links=[wheels], index=False))
"""


BUILDERS = pytest.mark.parametrize("builder", ["pip", "uv"])


def start(root: Path, wheels: Path, stop_at: str = "-") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _CREATE, str(root), str(wheels), stop_at]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@BUILDERS
def test_what_was_built_is_recorded_and_runs(built, make, builder):
    named = built[1] if builder == "pip" else make(needs("needy", probes=["needy", "tiny"]), builder=builder)
    environment = named.environment
    assert environment.built_by == builder
    assert environment.versions == {"needy": "1.0", "tiny": "1.0"}
    lock = (environment.path / LOCK_FILE).read_text()
    assert [line.split()[0] for line in lock.splitlines() if not line[0].isspace()] == ["needy==1.0", "tiny==1.0"]
    assert lock.count("--hash=sha256:") == 2
    answer = subprocess.run(
        [environment.interpreter, "-I", "-c", "import tiny; print(tiny.version)"], capture_output=True, text=True
    )
    assert answer.stdout == "1.0\n"


def test_the_same_request_finds_it_without_a_builder(built, monkeypatch):
    store, named = built
    monkeypatch.setattr(build, "find_builder", lambda name: pytest.fail("built again"))
    wanted = needs("needy", probes=["needy", "tiny"])
    again = build.create(store, wanted, backend="demo", sources=Sources(), progress=lambda text: None)
    assert again == named
    # Another name for the same request shares the packages.
    other = build.create(store, wanted, backend="demo", name="other", progress=lambda text: None)
    assert other.environment == named.environment
    assert store.remove("other") is False
    assert store.find("demo").environment is not None


def test_two_that_ask_at_once_get_one_build(tmp_path, wheels):
    both = [start(tmp_path / "environments", wheels) for _ in range(2)]
    outputs = [process.communicate(timeout=280) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("installing 1 packages" in out for out, _ in outputs) == 1
    assert len(EnvironmentStore(tmp_path / "environments").names()) == 1


def test_a_killed_build_leaves_nothing_that_looks_whole(tmp_path, wheels, make):
    root = tmp_path / "environments"
    process = start(root, wheels, stop_at="importing")
    assert process.wait(timeout=280) == -signal.SIGKILL
    store = EnvironmentStore(root)
    assert store.names() == []
    folders = list((root / "envs").iterdir())
    assert len(folders) == 1
    assert not (folders[0] / RECORD).exists()
    named = make(needs("tiny", probes=["tiny"]), root=root)
    assert named.environment.versions == {"tiny": "2.0"}
    assert list(store.leftovers()) == []


@BUILDERS
@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        (["tiny==99"], {"pip": ["tiny==99", "1.0, 2.0"], "uv": ["tiny==99"]}),
        (
            ["needy", "tiny>=2"],
            {"pip": ["needy 1.0 depends on tiny<2", "tiny>=2"], "uv": ["needy==1.0 depends on tiny<2", "tiny>=2"]},
        ),
    ],
)
def test_a_pin_that_cannot_be_met_is_named_with_who_asks(make, tmp_path, requirements, words, builder):
    with pytest.raises(UserError, match="backend demo") as raised:
        make(needs(*requirements), builder=builder)
    words = words[builder]
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert EnvironmentStore(tmp_path / "environments").names() == []


@BUILDERS
def test_no_network_is_told_as_such(make, monkeypatch, builder):
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "https://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError, match=r"the package index can't be reached: .*refused"):
        make(needs("tiny"), sources=Sources(), builder=builder)


def test_what_cannot_be_imported_is_not_kept(make, tmp_path):
    with pytest.raises(UserError, match="no such driver"):
        make(needs("broken", probes=["broken"]), builder="uv")
    assert list((tmp_path / "environments" / "envs").iterdir()) == []


def test_another_python_that_is_not_here(make):
    with pytest.raises(UserError, match=r"no Python 3\.99"):
        make(needs("tiny"), python="3.99")
    with pytest.raises(UserError, match=r"backend demo needs Python >=4; this machine has \d"):
        make(needs("tiny", python=">=4"))


@pytest.mark.parametrize("name", ["auto", "current", "../up", "-x", ""])
def test_names_that_mean_something_else(make, name):
    with pytest.raises(UserError, match="can't be an environment's name"):
        make(needs("tiny"), name=name or " ")


@BUILDERS
def test_a_full_disk_is_told_as_such(make, tmp_path, builder):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here")
    try:
        with pytest.raises(UserError, match=r"(disk is full|No space left)"):
            make(needs("tiny"), root=small / "environments", builder=builder)
        assert EnvironmentStore(small / "environments").names() == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
