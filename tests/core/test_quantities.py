"""Durations and sizes in recipes."""

from __future__ import annotations

import re

import pytest

from nexa.quantities import DURATION, MEMORY, bytes_of, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("12h", 43200), ("1d 6h", 108000), ("1d6h", 108000), ("30s", 30), ("1-06:00:00", 108000)],
)
def test_durations(text, seconds):
    assert re.search(DURATION, text)
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "12", "h", "1h 1d", "5:00", "1:60:00", "-1h", "1h\n", "1.5h", "soon"])
def test_what_is_no_duration(text):
    # Recipes are matched by another engine, in which $ stands for the very end.
    assert re.search(DURATION.replace("$", r"\Z"), text) is None


@pytest.mark.parametrize(("text", "size"), [("64G", 64 << 30), ("1.5GiB", 3 << 29), ("1T", 1 << 40)])
def test_sizes(text, size):
    assert re.search(MEMORY, text)
    assert bytes_of(text) == size
