"""Tables and JSON as programs read them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from nexa.cli.output import fail, print_json, table, to_json
from nexa.errors import UserError
from nexa.specs import ObserverSpec


@dataclass
class Point:
    x: float
    place: Path


def test_json_of_dataclasses_paths_sets_and_numbers_json_lacks(capsys):
    print_json([Point(math.nan, Path("/a")), {"b", "a"}, {1: (2.5, math.inf)}, None, True])
    expected = [{"x": None, "place": "/a"}, ["a", "b"], {"1": [2.5, None]}, None, True]
    assert json.loads(capsys.readouterr().out) == expected


def test_json_is_ascii_and_exact(capsys):
    print_json("\x1b[31m ☃ \u202e")
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == "\x1b[31m ☃ \u202e"


def test_what_has_no_json_form_is_refused():
    with pytest.raises(TypeError, match="object has no JSON form"):
        to_json(object())


def test_a_spec_has_a_json_form():
    assert to_json(ObserverSpec(name="a", summary="b", factory="c:d"))["capabilities"] == []


def test_a_table_in_a_pipe_is_aligned_and_never_cut(capsys):
    table(("NAME", "SIZE"), [("a" * 200, 5), ("b\x1b\nc", None)], right=("SIZE",))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1] == "a" * 200 + "     5"
    assert lines[2].startswith("b")
    assert "\x1b" not in lines[2]


def test_fail_is_a_user_error():
    with pytest.raises(UserError, match="what\n  type this"):
        fail("what", hint="type this")
