"""The plugin documentation is true: signatures are exact and the guide's package works."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tomllib

import pytest

from nexa import hookspecs

HOOKS = {
    name: function for name, function in vars(hookspecs).items() if name.startswith("nexa_") and callable(function)
}


@pytest.fixture(scope="module")
def hooks_page(pytestconfig):
    return (pytestconfig.rootpath / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_a_heading_with_its_signature_and_docstring(hooks_page, name):
    heading = f"## `{name}{inspect.signature(HOOKS[name])}`".replace("'", "")
    section = hooks_page.partition(f"{heading}\n")[2].partition("\n## ")[0]
    assert section, f"missing heading: {heading}"
    assert inspect.getdoc(HOOKS[name]) in " ".join(section.split())


def test_no_heading_is_left_without_a_hook(hooks_page):
    assert set(re.findall(r"^## `(\w+)", hooks_page, flags=re.MULTILINE)) == set(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_used_by_a_package_of_this_repository(pytestconfig, name):
    sources = [
        *pytestconfig.rootpath.glob("plugins/*/plugin.py"),
        *pytestconfig.rootpath.glob("tests/packages/*/src/*/plugin.py"),
    ]
    assert any(f"def {name}(" in source.read_text(encoding="utf-8") for source in sources)


def test_the_package_of_the_guide_works(pytestconfig, tmp_path):
    """Write the guide's files, register them as pip would, and run the guide's own tests."""
    guide = (pytestconfig.rootpath / "docs" / "how-to" / "write-a-plugin.md").read_text(encoding="utf-8")
    files = re.findall(r"^`([\w./]+)`(?:(?!```).)*```\w+\n(.*?)^```", guide, flags=re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == [
        "pyproject.toml",
        "nexa_csv/plugin.py",
        "nexa_csv/options.py",
        "nexa_csv/observer.py",
        "tests/test_csv.py",
    ]
    for name, text in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    info = tmp_path / "nexa_csv-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {module}" for name, module in project["entry-points"]["nexa"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[nexa]", *lines, ""]))
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout
