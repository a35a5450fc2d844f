"""What a sweep tries: lists, ranges, logarithmic steps, grids and samples."""

from __future__ import annotations

import pytest

from nexa.errors import RecipeError, UserError
from nexa.sweeps.space import grid, parse_axes, sample


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.b=1,2,3", ["1", "2", "3"]),
        ("a=[1,2],[3]", ["[1,2]", "[3]"]),
        ("a='x,y',z", ["'x,y'", "z"]),
        ('a="x", "y,z"', ['"x"', '"y,z"']),
        ("a=it's,we're", ["it's", "we're"]),
        ("a={b: 1, c: 2}", ["{b: 1, c: 2}"]),
        ("a=range(100,500,100)", ["100", "200", "300", "400"]),
        ("a=range(0,1,0.25)", ["0", "0.25", "0.5", "0.75"]),
        ("a=range(0.1,0.4,0.1)", ["0.1", "0.2", "0.3"]),
        ("a=range(3,0,-1)", ["3", "2", "1"]),
        ("a=range(1,4)", ["1", "2", "3"]),
        ("a=log(1e-5,1e-3,5)", ["1e-05", "3.16228e-05", "0.0001", "0.000316228", "0.001"]),
        ("a=log(1,100,3)", ["1.0", "10.0", "100.0"]),
        ("a+=x,y", ["x", "y"]),
        ("a=f(x)", ["f(x)"]),
    ],
)
def test_values(text, values):
    (axis,) = parse_axes([text])
    assert list(axis.values) == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "not of the form"),
        ("=1", "not of the form"),
        ("a=", "empty value"),
        ("a=1,,2", "empty value"),
        ("a=1,1", "twice"),
        ("a=[1,2", "bracket"),
        ("a='x", "quote"),
        ("a=range(1)", "range takes"),
        ("a=range(1,2,0)", "no value"),
        ("a=range(5,1)", "no value"),
        ("a=range(1,x)", "no number"),
        ("a=range(0,inf)", "finite"),
        ("a=range(0,1000000)", "more than a sweep"),
        ("a=log(0,1,3)", "above 0"),
        ("a=log(1,2,1.5)", "1.5"),
        ("a=uniform(1)", "uniform takes"),
    ],
)
def test_bad_values_say_what_is_wrong(text, words):
    with pytest.raises(RecipeError, match=words):
        parse_axes([text])


def test_all_problems_come_at_once():
    with pytest.raises(RecipeError) as caught:
        parse_axes(["a", "b=range(1)", "c=1", "c=2"])
    assert len(caught.value.problems) == 3


def test_the_grid_varies_the_last_key_fastest():
    members = grid(parse_axes(["a=1,2", "b=x,y"]))
    assert members == [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"}]


def test_a_grid_is_countable_and_bounded():
    with pytest.raises(UserError, match="counted"):
        grid(parse_axes(["a=uniform(0,1)"]))
    with pytest.raises(UserError, match="1600 runs"):
        grid(parse_axes(["a=range(0,40)", "b=range(0,40)"]))


def test_a_sample_is_the_same_for_the_same_seed_and_holds_no_member_twice():
    axes = parse_axes(["a=range(0,100)", "b=x,y", "c=range(0,100000,200)"])
    first = sample(axes, 50, seed=7)
    assert first == sample(axes, 50, seed=7)
    assert first != sample(axes, 50, seed=8)
    assert len({tuple(member.items()) for member in first}) == 50
    assert len(sample(parse_axes(["a=1,2"]), 10, seed=0)) == 2


def test_continuous_axes_stay_in_their_bounds():
    axes = parse_axes(["lr=log(1e-5,1e-3)", "dropout=uniform(0,0.3)", "n=1,2"])
    members = sample(axes, 40, seed=1)
    assert len(members) == 40
    assert all(1e-5 <= float(member["lr"]) <= 1e-3 and 0 <= float(member["dropout"]) <= 0.3 for member in members)
    assert sum(float(member["lr"]) < 1e-4 for member in members) in range(8, 33)
