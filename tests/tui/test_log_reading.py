"""The log index: any line of any file by number, search and levels over all of it, files that change under it."""

from __future__ import annotations

import json
import os
import random

import pytest

from nexa.errors import UserError
from nexa.tui.data.log_index import BLOCK_BYTES, SHOWN_BYTES, LogIndex
from nexa.tui.data.log_lines import LevelFilter, Search, find_error, shown, tail


def write(path, lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def counted(path):
    index = LogIndex(path)
    while index.scan(max_bytes=100_000):
        pass
    return index


@pytest.fixture
def lines():
    draw = random.Random(1)
    sizes = [draw.choice([0, 5, 80, 200, BLOCK_BYTES + 7 if draw.random() < 0.01 else 3]) for _ in range(20_000)]
    return [b"x" * size + str(number).encode() for number, size in enumerate(sizes)]


def test_any_line_is_found_by_its_number(tmp_path, lines):
    index = counted(write(tmp_path / "log", lines))
    assert index.lines == len(lines)
    assert index.complete
    for first in random.Random(2).sample(range(len(lines)), 300):
        for offset, raw in enumerate(index.read(first, 3)):
            assert raw.number == first + offset
            assert raw.size == len(lines[first + offset])
            assert lines[first + offset].startswith(raw.data)


def test_chunks_cover_the_file_in_both_directions(tmp_path, lines):
    index = counted(write(tmp_path / "log", lines))
    after = list(index.chunks(777))
    before = list(index.chunks(777, backwards=True))
    assert b"".join(data for _, data in after) == b"".join(line + b"\n" for line in lines[777:])
    assert b"".join(data for _, data in reversed(before)) == b"".join(line + b"\n" for line in lines[:777])
    assert all(data.split(b"\n")[0] == lines[first] for first, data in (*after, *before))


def test_the_index_follows_growth_and_a_line_in_the_making(tmp_path):
    path = tmp_path / "log"
    index = LogIndex(path)
    assert not index.scan()
    path.write_bytes(b"one\ntw")
    assert index.scan()
    assert [line.data for line in index.read(0, 9)] == [b"one", b"tw"]
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    index.scan()
    assert [line.data for line in index.read(0, 9)] == [b"one", b"two", b"three"]
    assert not index.scan()


@pytest.mark.parametrize("how", ["rotated", "cut", "rewritten"])
def test_a_replaced_file_is_counted_anew(tmp_path, how):
    path = write(tmp_path / "log", [b"old %d" % number for number in range(1000)])
    index = counted(path)
    if how == "rotated":
        path.rename(tmp_path / "log.1")
        write(path, [b"new"])
    elif how == "cut":
        os.truncate(path, 0)
        index.scan()
        write(path, [b"new"])
    else:
        path.write_bytes(b"new\n" + b"y" * 20_000)
    index.scan()
    assert index.generation >= 1
    assert index.read(0, 1)[0].data == b"new"


def test_a_missing_file_is_empty(tmp_path):
    path = write(tmp_path / "log", [b"one"])
    index = counted(path)
    path.unlink()
    assert index.read(0, 5) == []
    assert index.scan()
    assert index.lines == 0
    assert tail(path, 5) == []


def test_long_lines_are_read_in_part_and_say_so(tmp_path):
    index = counted(write(tmp_path / "log", [b"a" * 1_000_000, b"x" * 100_000 + b"\r50%\r100% done", b"end"]))
    long, bar, end = (shown(raw) for raw in index.read(0, 3))
    assert len(long.rows[0]) < SHOWN_BYTES + 100
    assert "1.0 MB in one line" in long.rows[0]
    assert bar.rows[0].startswith("100% done")
    assert end.rows == ("end",)


def test_shown_lines_are_safe_and_readable(tmp_path):
    record = {
        "ts": 0,
        "level": "error",
        "event": "boom \x1b[31m",
        "logger": "x",
        "run": "r",
        "exception": "Traceback\n  x",
    }
    raw = [
        json.dumps(record).encode(),
        b"\x1b]0;title\x07 \xff\xfe \xe2\x80\xae[/red]",
        b"10%\r55%\r",
        b"WARNING: a\tb",
    ]
    first, second, third, fourth = (shown(line) for line in counted(write(tmp_path / "log", raw)).read(0, 4))
    assert first.level == "error"
    assert first.rows[0].endswith("boom ␛[31m")
    assert first.rows[1:] == ("Traceback", "  x")
    assert not any(ord(character) < 32 for character in second.rows[0])
    assert "[/red]" in second.rows[0]
    assert third.rows == ("55%",)
    assert (fourth.level, fourth.rows[0]) == ("warning", "WARNING: a      b")


def test_search_finds_what_is_shown(tmp_path):
    records = [
        {"ts": 0, "level": "info", "event": f'step {n} "é"', "logger": "x", "run": "secret", "rank": 0}
        for n in range(3000)
    ]
    index = counted(write(tmp_path / "log", [json.dumps(record).encode() for record in records]))
    assert Search("step 2999").find(index, 0) == 2999
    assert Search("STEP 5").find(index, 0) is None
    assert Search("Step 5|step 6 ").find(index, 0) == 6
    assert Search("step 1").find(index, 100, backwards=True) == 19
    assert Search("é").find(index, 7) == 7
    assert Search(r"^\d\d:\d\d:\d\d info +step 12 ").find(index, 0) == 12
    # A field that is not shown is not found.
    assert Search("secret").find(index, 0) is None
    assert Search("step").find(index, 0, cancelled=lambda: True) is None
    with pytest.raises(UserError, match="no regular expression"):
        Search("(")


def test_errors_and_levels_are_found(tmp_path):
    rows = [b"fine"] * 5000
    rows[1200:1204] = [
        b"Traceback (most recent call last):",
        b'  File "x"',
        b"OSError: stale",
        b"Error in words is fine: no",
    ]
    rows[3000] = b'{"ts": 1, "level": "warning", "event": "clipped"}'
    rows[4000] = b'{"ts": 1, "level": "error", "event": "dead"}'
    path = write(tmp_path / "log", rows)
    index = counted(path)
    assert find_error(index, 0) == 1200
    assert find_error(index, 1203) == 4000
    assert find_error(index, 4001) is None
    errors, warnings = LevelFilter("errors"), LevelFilter("warnings")
    assert errors.update(index)
    warnings.update(index)
    assert errors.numbers == [1200, 1202, 4000]
    assert warnings.numbers == [1200, 1202, 3000, 4000]
    with path.open("ab") as file:
        file.write(b"fine\nERROR: half a li")
    index.scan()
    assert not errors.update(index)
    with path.open("ab") as file:
        file.write(b"ne\n")
    index.scan()
    assert errors.update(index)
    assert errors.numbers[-1] == 5001


def test_the_end_is_there_before_anything_is_counted(tmp_path):
    path = write(tmp_path / "log", [b"line %d" % number for number in range(100_000)])
    assert [line.data for line in tail(path, 3)] == [b"line 99997", b"line 99998", b"line 99999"]
