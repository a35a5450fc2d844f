"""`nexa doctor` and `nexa env doctor` name pins that contradict, and whose they are."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from environment_kit import needs

from nexa.environments import conflicts as module
from nexa.environments.choose import choose
from nexa.environments.store import EnvironmentStore
from nexa.recipe.schema import Recipe
from nexa.specs import BackendSpec


def spec(name: str, *requirements: str, **fields: object) -> BackendSpec:
    return BackendSpec(
        name=name, summary="For tests", factory="nexa_demo:X", methods=("sft",), requirements=requirements, **fields
    )


@pytest.fixture
def backends(monkeypatch):
    """The installed backends, as a list to fill."""
    specs: list[BackendSpec] = []
    host = SimpleNamespace(
        specs=lambda kind: tuple(specs),
        spec=lambda kind, name: next(each for each in specs if each.name == name),
        provider_of=lambda kind, name: SimpleNamespace(distribution="nexa-tests"),
    )
    monkeypatch.setattr(module, "get_host", lambda: host)
    return specs


def test_pins_of_two_backends(backends, tmp_path):
    backends += [spec("one", "tiny==1.0"), spec("two", "tiny>=2"), spec("three", "other")]
    assert module.conflicts(EnvironmentStore(tmp_path)) == ["backend one needs tiny==1.0; backend two needs tiny>=2"]


def test_pins_of_the_trainers_that_come_with_nexa(tmp_path):
    found = module.conflicts(EnvironmentStore(tmp_path))
    between = next(line for line in found if "backend axolotl" in line and "backend hf" in line)
    assert re.search(r"axolotl needs .*transformers==.*; backend hf needs .*transformers", between), between
    assert not any("axolotl" not in line for line in found)


def test_pins_inside_a_built_environment(backends, built):
    backends += [spec("demo", "needy"), spec("two", "tiny>=2"), spec("three", "tiny>=1")]
    assert module.conflicts(built[0]) == [
        "backend two needs tiny>=2; needy 1.0 in the environment demo needs tiny<2",
    ]


def recipe(**environment: object) -> Recipe:
    return Recipe.model_validate(
        {
            "method": "sft",
            "model": {"name": "org/model"},
            "data": {"remote_uri": "rows.jsonl"},
            "environment": environment or "auto",
        }
    )


def chosen(recipe, backend, root, own_python=None):
    import sys

    code = SimpleNamespace(folder=root / "code", probes=())
    return choose(
        recipe,
        backend,
        own_python=own_python or sys.executable,
        distribution="nexa-tests",
        root=root,
        make_code=lambda probes: code,
    )


def test_auto_takes_the_current_one_where_it_fits(built):
    placement = chosen(recipe(), spec("demo", "click"), built[0].root)
    assert (placement.kind, placement.reasons, placement.problems) == ("current", (), ())


def test_auto_takes_a_built_one_and_says_why_not_the_current(built):
    placement = chosen(recipe(), spec("demo", "needy", probes=("needy",)), built[0].root)
    assert (placement.kind, placement.name, placement.digest) == ("created", "demo", built[1].digest)
    assert placement.reasons == ["not the current one: it lacks needy"]
    assert placement.packages == 2


def test_auto_without_one_that_fits_says_what_to_type(built):
    placement = chosen(recipe(), spec("demo", "needy>=2"), built[0].root)
    (problem,) = placement.problems
    assert "it lacks needy>=2; demo was built for other needs" in problem.message
    assert "nexa env create demo" in problem.hint


def test_auto_leaves_a_backend_its_own_interpreter(built):
    placement = chosen(recipe(), spec("demo", "needy"), built[0].root, own_python="/opt/python")
    assert (placement.kind, placement.python) == ("backend", "/opt/python")


def test_a_named_one_may_have_other_versions_but_must_have_all(built):
    root = built[0].root
    placement = chosen(recipe(name="demo"), spec("demo", "tiny>=2"), root)
    assert placement.reasons == ["it has tiny 1.0, backend demo needs >=2"]
    assert not placement.problems
    (problem,) = chosen(recipe(name="demo"), spec("demo", "absent"), root).problems
    assert "lacks absent, which backend demo needs" in problem.message


def test_current_is_kept_but_must_have_all(tmp_path):
    placement = chosen(recipe(name="current"), spec("demo", "click>=99"), tmp_path)
    assert placement.kind == "current"
    assert not placement.problems
    (problem,) = chosen(recipe(name="current"), spec("demo", "no-such-package"), tmp_path).problems
    assert "lacks no-such-package" in problem.message


def test_a_path_is_read_without_being_started(built):
    path = str(built[1].environment.path)
    placement = chosen(recipe(name=path), spec("demo", "needy"), built[0].root)
    assert (placement.kind, placement.packages, placement.problems) == ("path", 2, ())
    assert placement.python == f"{path}/bin/python"


def test_a_name_whose_build_is_gone(tmp_path, wheels, make):
    make(needs("tiny"), root=tmp_path)
    store = EnvironmentStore(tmp_path)
    (store.require("demo").environment.path / "nexa-environment.json").unlink()
    (problem,) = chosen(recipe(name="demo"), spec("demo", "tiny"), tmp_path).problems
    assert "was not built to its end, or was removed" in problem.message
    assert [path.name for path in store.leftovers()] == [store.require("demo").digest]
