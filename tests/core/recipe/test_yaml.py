"""Strict YAML 1.2: scalars, places, and what is refused."""

from __future__ import annotations

import random

import pytest

from nexa.errors import RecipeError
from nexa.recipe.render import to_yaml
from nexa.recipe.yaml import parse_yaml

SCALARS = [
    ("1e-5", 1e-5),
    ("1E3", 1000.0),
    ("-.5", -0.5),
    ("3.", 3.0),
    ("12", 12),
    ("-7", -7),
    ("+3", 3),
    ("012", 12),
    ("0x1F", 31),
    ("0o17", 15),
    ("0b11", "0b11"),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("2026-01-31", "2026-01-31"),
    ("true", True),
    ("False", False),
    ("yes", "yes"),
    ("no", "no"),
    ("on", "on"),
    ("Off", "Off"),
    ("y", "y"),
    ("null", None),
    ("~", None),
    ("", None),
    ("Nil", "Nil"),
    ("'1'", "1"),
    ('"true"', "true"),
    ("1e", "1e"),
    ("e5", "e5"),
    ("0o9", "0o9"),
    ("=", "="),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    parsed = parse_yaml(f"key: {text}\n").plain()["key"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_every_key_and_value_knows_its_place() -> None:
    root = parse_yaml("a:\n  b: [1,\n      {c: x}]\n", "f.yaml")
    list_node = root.find(("a", "b"))
    inner = root.find(("a", "b", 1, "c"))
    assert list_node is not None
    assert list_node.key is not None
    assert inner is not None
    assert (list_node.key.line, list_node.key.column) == (2, 3)
    assert (list_node.origin.line, list_node.origin.column) == (2, 6)
    assert (inner.origin.line, inner.origin.column) == (3, 11)
    assert str(inner.origin) == "recipe f.yaml:3:11"


def test_problems_of_one_file_are_reported_together() -> None:
    text = "a: 1\na: 2\nb: !!python/object:os.system x\nc: &x 1\nd: *x\ne: .nan\n1: x\n<<: {f: 1}\n"
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "f.yaml")
    places = [(problem.line, problem.column) for problem in caught.value.problems]
    assert places == [(2, 1), (3, 4), (4, 4), (5, 4), (6, 4), (7, 1), (8, 1)]
    assert "first on line 1" in str(caught.value.problems[0])


def test_written_values_are_read_back_the_same() -> None:
    rnd = random.Random(0)
    alphabet = "01e.-+_xo:# \n'\"[]{}&*!|>%@,?abé\t日"
    words = ["yes", "no", "null", "~", "012", "1e5", ".5", "2026-01-31", "<<", "", " x", "a: b", "#", "---", "\u2028"]
    words += ["".join(rnd.choice(alphabet) for _ in range(rnd.randint(1, 9))) for _ in range(400)]
    numbers = [1e-5, 0.1, 1e300, 1.0, 1e22, -0.0, 5e-324, 0, -1, 2**62, True, None]
    for value in [*words, *numbers]:
        document = {"key": value, "list": [value], "nested": {"deep": {"x": value}, "empty": {}, "none": []}}
        again = parse_yaml(to_yaml(document)).plain()
        assert again == document
        assert type(again["key"]) is type(value)


def test_nothing_but_comments_is_null() -> None:
    assert parse_yaml("").plain() is None
    assert parse_yaml("# only a comment\n").plain() is None
