"""`nexa plugin new`: packages of every kind that pip installs, linters accept, and whose own tests pass."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from nexa.cli.main import main
from nexa.scaffold.create import create_package, kinds

NAMES = {**{kind: f"own-{kind.split('-')[-1]}" for kind in kinds()}, "backend": "counts"}
"""Name of the package of each kind; the backend is the one that the tutorial builds."""


def call(*command: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python, with what is installed in `path`."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """A new package of every kind."""
    parent = tmp_path_factory.mktemp("packages")
    return [create_package(name, kind, parent) for kind, name in NAMES.items()]


@pytest.fixture(scope="module")
def installed(packages: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed them into."""
    pytest.importorskip("hatchling", reason="pip builds the packages with it: pip install -e '.[dev]'")
    site = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    answer = call("-m", "pip", "install", *options, "--target", str(site), *map(str, packages), cwd=site)
    assert answer.returncode == 0, answer.stderr
    return site


@pytest.fixture(scope="module")
def tutorial(pytestconfig: pytest.Config) -> str:
    """The page that builds a backend."""
    return (pytestconfig.rootpath / "docs" / "tutorial" / "write-a-backend.md").read_text(encoding="utf-8")


def test_there_is_a_template_for_every_kind() -> None:
    assert kinds() == ("artifact-store", "backend", "distiller", "observer", "reward", "scheduler", "task")


def test_they_are_listed(installed: Path, tmp_path: Path) -> None:
    answer = call("-m", "nexa.cli.main", "plugins", "--json", cwd=tmp_path, path=installed)
    found = {(entry["kind"], entry["name"], entry["status"]) for entry in json.loads(answer.stdout)}
    assert {(kind, name, "ok") for kind, name in NAMES.items()} <= found


@pytest.mark.parametrize(
    "kinds",
    [
        ["artifact-store", "backend", "distiller", "observer", "reward"],
        pytest.param(["scheduler", "task"], marks=pytest.mark.soak),
    ],
    ids=" ".join,
)
def test_their_own_tests_pass(packages: Sequence[Path], installed: Path, tmp_path: Path, kinds: list[str]) -> None:
    if "task" in kinds:
        pytest.importorskip("torch", reason="the task trains with it")
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", str(tmp_path)]
    folders = dict(zip(NAMES, packages, strict=True))
    tests = [str(folders[kind] / "tests") for kind in kinds]
    answer = call("-m", "pytest", *options, *tests, cwd=tmp_path, path=installed)
    assert answer.returncode == 0, answer.stdout[-5000:]


@pytest.mark.parametrize("command", [["ruff", "check", "--no-cache"], ["ruff", "format", "--check", "--no-cache"]])
def test_linters_accept_them(packages: Sequence[Path], command: list[str]) -> None:
    pytest.importorskip("ruff")
    answer = call("-m", *command, *map(str, packages), cwd=packages[0])
    assert answer.returncode == 0, answer.stdout


@pytest.mark.soak
def test_types_are_right(packages: Sequence[Path], installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    sources = [str(folder) for package in packages for folder in (package / "src").iterdir()]
    options = ["--config-file", str(packages[0] / "pyproject.toml"), "--cache-dir", str(tmp_path)]
    answer = call("-m", "mypy", *options, *sources, cwd=tmp_path, path=installed)
    assert answer.returncode == 0, answer.stdout


def test_the_tutorial_shows_the_package(packages: Sequence[Path], tutorial: str) -> None:
    """Every Python block of the page is a part of the file named above it, and all parts together are the file."""
    package = packages[list(NAMES).index("backend")]
    shown: dict[str, str] = {}
    for name, text in re.findall(r"^`(src/[\w/]+\.py)`:\n\n```python\n(.*?)^```", tutorial, re.MULTILINE | re.DOTALL):
        assert text.rstrip() in (package / name).read_text(), name
        shown[name] = shown.get(name, "") + text
    assert set(shown) == {f"src/nexa_counts/{name}.py" for name in ("plugin", "options", "trainer", "backend")}
    for name, text in shown.items():
        assert text.split() == (package / name).read_text().split(), name


def test_the_tutorials_recipe_is_trained(installed: Path, tutorial: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "abab"}\n{"text": "ba"}\n')
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", tutorial, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(recipe)
    command = ("-m", "nexa.cli.main", "launch", "mine.yaml", "--json", "--follow")
    answer = call(*command, cwd=tmp_path, path=installed)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["step"] == 8
    refused = call(*command, "optimizer.lr=1", cwd=tmp_path, path=installed)
    assert refused.returncode == 2
    assert refused.stderr.strip() in tutorial


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["My Plugin", "--kind", "backend"], "can't be the name of a plugin"),
        (["data", "--kind", "backend"], "is a section of recipes"),
        (["../up", "--kind", "backend"], "can't be the name of a plugin"),
        (["mine", "--kind", "trainer"], "kinds: artifact-store, backend"),
        (["taken", "--kind", "observer"], "exists"),
    ],
)
def test_what_is_typed_wrong_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (tmp_path / "nexa-taken").mkdir()
    assert main(["plugin", "new", *arguments, "--dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["nexa-taken"]


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["plugin", "new", "mine", "--kind", "task", "--dir", str(tmp_path / "file")]) == 2
    assert "can't be written" in capsys.readouterr().err
