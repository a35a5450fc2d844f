"""What backends ask for: spelled out, compared with what is installed, and with one another."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.specifiers import SpecifierSet

from nexa.environments.requirements import Needs, can_meet, contradictions, current_misfits, misfits, needs_of
from nexa.errors import UserError
from nexa.specs import BackendSpec


def spec(*requirements: str, **fields: object) -> BackendSpec:
    return BackendSpec(
        name="demo", summary="For tests", factory="a:b", methods=("sft",), requirements=requirements, **fields
    )


def asks(asker: str, *requirements: str) -> Needs:
    return Needs(asker=f"backend {asker}", requirements=requirements, python=">=3.10", probes=())


@pytest.mark.parametrize(
    ("first", "second", "possible"),
    [
        ("==1.2", ">=1", True),
        ("==1.2", "==1.2.0", True),
        ("==1.2", "==1.3", False),
        ("==4.57.1", ">=5", False),
        (">=2", "<3", True),
        (">2,<3", "==2.5", True),
        (">=3", "<3", False),
        (">2", "<=2", False),
        ("<2", "<1", True),
        ("~=1.4", ">=2", False),
        ("~=1.4", ">=1.9", True),
        ("==1.*", "!=1.0", True),
        ("", "==9", True),
        ("==2.0.dev1", ">=2.0.dev0", True),
    ],
)
def test_pins_that_no_version_meets(first, second, possible):
    assert can_meet(SpecifierSet(first), SpecifierSet(second)) is possible
    assert can_meet(SpecifierSet(second), SpecifierSet(first)) is possible


def test_contradictions_are_pins_of_both_whatever_the_spelling():
    hf, axolotl = asks("hf", "transformers>=5", "torch>=2"), asks("axolotl", "Transformers==4.57.1")
    assert contradictions(hf, axolotl) == [("transformers>=5", "Transformers==4.57.1")]
    assert contradictions(hf, asks("echo")) == []


def test_a_requirement_on_nexa_itself_stands_for_what_that_requires():
    names = {line.split(">")[0].split("[")[0] for line in needs_of(spec("nexa-train[torch]"), "nexa-demo").requirements}
    assert {"torch", "transformers", "pydantic", "pluggy"} < names
    assert not any(name.startswith("nexa") for name in names)
    assert "textual" not in names


def test_misfits_are_told_in_words():
    wanted = needs_of(spec("tiny>=2", "absent", requires_python=">=3.12"), "nexa-demo")
    assert misfits(wanted, {"tiny": "1.0"}, "3.11.7") == [
        "it has Python 3.11.7, backend demo needs >=3.12",
        "it lacks absent",
        "it has tiny 1.0, backend demo needs >=2",
    ]
    assert misfits(wanted, {"tiny": "2.1", "absent": "1"}, "3.12.0") == []


def test_the_current_environment_is_asked_without_imports():
    version = metadata.version("click")
    assert current_misfits(needs_of(spec(f"click=={version}", probes=("click",)), "nexa-demo")) == []
    assert current_misfits(needs_of(spec(probes=("no_such_module",)), "nexa-demo")) == [
        "it lacks the module no_such_module"
    ]


def test_markers_for_another_python_do_not_count():
    wanted = needs_of(spec("absent; python_version<'3.11'"), "nexa-demo")
    assert misfits(wanted, {}, "3.12.1") == []
    assert misfits(wanted, {}, "3.10.4") == ["it lacks absent"]


@pytest.mark.parametrize("text", ["==1", "two words", "nexa-absent @"])
def test_a_requirement_that_is_none_names_who_asks(text):
    with pytest.raises(UserError, match="backend demo asks for"):
        needs_of(spec(text), "nexa-demo")
