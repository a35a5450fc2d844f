"""A stream gives the same rows as it would from any place, on any machine, pass after pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexa.errors import DataError
from nexa.recipe.schema import Recipe
from nexa_torch.data.prepare import prepare_data
from nexa_torch.data.rows import IGNORED
from nexa_torch.data.streaming import StreamedRows
from nexa_torch.data.streams import open_stream

ROWS = [{"prompt": f"say {i}", "response": f"number {i} " * (1 + i % 7)} for i in range(700)]


def _open(recipe: Recipe) -> StreamedRows:
    rows = prepare_data(recipe).train
    assert isinstance(rows, StreamedRows)
    return rows


@pytest.fixture
def recipe(tmp_path: Path, write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> Recipe:
    """700 pairs in windows of 512."""
    path = write_rows(ROWS)
    return make_recipe(
        path,
        data={"streaming": True, "stream_window": 512, "local_cache_root": str(tmp_path / "cache")},
        training={"max_steps": 10},
    )


def _answers(rows: StreamedRows, tokenizer: Any, count: int) -> list[str]:
    labels = rows.take(range(count)).labels
    return [a for a in tokenizer.decode(labels[labels != IGNORED]).split("<|im_end|>") if a]


def test_one_pass_holds_every_document_once(recipe: Recipe) -> None:
    data = prepare_data(recipe)
    rows = data.train
    assert isinstance(rows, StreamedRows)
    first, second = rows.cursor(0), None
    second = rows.cursor(first["rows"])
    assert (first["window"], second["window"]) == (0, 1)
    assert (first["end"]["documents"], second["end"]["documents"]) == (512, 700)
    assert second["end"]["done"]
    answers = _answers(rows, data.tokenizer, first["rows"] + second["rows"])
    assert sorted(answers) == sorted(row["response"] for row in ROWS)
    third = rows.cursor(second["first_row"] + second["rows"])
    assert (third["pass"], third["begin"], third["rows"]) == (1, {}, first["rows"])


def test_any_row_is_reached_again_with_and_without_records(recipe: Recipe, tmp_path: Path) -> None:
    rows = _open(recipe)
    total = rows.cursor(0)["rows"] * 3
    expected = [rows.take([i]).input_ids for i in range(total)]
    again = _open(recipe)
    for i in (total - 1, 3, total // 2, total // 2 + 1):
        assert np.array_equal(again.take([i]).input_ids, expected[i])
    cursor = json.loads(json.dumps(rows.cursor(total - 1)))
    rows.close()
    again.close()
    shutil.rmtree(tmp_path / "cache")
    other = _open(recipe)
    assert np.array_equal(other.take([total // 2]).input_ids, expected[total // 2])
    other.close()
    shutil.rmtree(tmp_path / "cache")
    moved = _open(recipe)
    moved.restore(cursor)
    assert np.array_equal(moved.take([total - 1]).input_ids, expected[total - 1])
    windows = {path.name for path in (tmp_path / "cache" / "streams" / moved.identity).iterdir() if path.is_dir()}
    assert f"{cursor['window'] - 1:08d}" not in windows


def test_a_batch_may_lie_in_two_windows(recipe: Recipe) -> None:
    rows = _open(recipe)
    edge = rows.cursor(0)["rows"]
    batch = rows.take([edge - 1, edge])
    for place, index in enumerate((edge - 1, edge)):
        one = rows.take([index])
        width = one.input_ids.shape[1]
        assert np.array_equal(batch.input_ids[place, :width], one.input_ids[0])
        assert (batch.labels[place, width:] == IGNORED).all()
        assert (batch.document[place, width:] == -1).all()


def test_old_windows_leave_the_disk(recipe: Recipe, tmp_path: Path) -> None:
    rows = _open(recipe)
    per_pass = rows.cursor(0)["rows"] + rows.cursor(rows.cursor(0)["rows"])["rows"]
    for start in range(0, 4 * per_pass, per_pass // 4):
        rows.take([start])
    rows.close()
    folder = tmp_path / "cache" / "streams" / rows.identity
    assert len([path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]) <= 4


def test_limit_ends_a_pass(recipe: Recipe) -> None:
    short = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_documents": 600})})
    rows = _open(short)
    second = rows.cursor(rows.cursor(0)["rows"])
    assert second["end"]["documents"] == 600
    assert rows.cursor(second["first_row"] + second["rows"])["pass"] == 1


def test_pass_that_ends_with_a_window(recipe: Recipe) -> None:
    exact = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_documents": 512})})
    rows = _open(exact)
    first = rows.cursor(0)
    assert first["end"]["done"]
    assert rows.cursor(first["rows"])["pass"] == 1


def test_bad_row_is_named_when_its_window_comes(
    tmp_path: Path, write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]
) -> None:
    path = write_rows([*ROWS[:600], {"prompt": "x"}])
    recipe = make_recipe(
        path, data={"streaming": True, "stream_window": 512, "local_cache_root": str(tmp_path / "cache")}
    )
    rows = _open(recipe)
    with pytest.raises(DataError, match=r"data\.jsonl:601: response: missing"):
        rows.take([rows.cursor(0)["rows"]])


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "json", "memory", "hub"])
def test_streams_are_entered_anywhere(kind: str, tmp_path: Path, write_rows: Callable[..., Path]) -> None:
    values = [{"text": f"text {i} é"} for i in range(1000)]
    uri = str(tmp_path)
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(values), tmp_path / "rows.parquet", row_group_size=300)
    elif kind == "json":
        (tmp_path / "rows.json").write_text(json.dumps(values))
    elif kind == "memory":
        fsspec = pytest.importorskip("fsspec")
        lines = "".join(json.dumps(value) + "\n" for value in values)
        fsspec.filesystem("memory").pipe("/streamed/rows.jsonl", lines.encode())
        uri = "memory://streamed"
    else:
        write_rows(values[:400], "a.jsonl")
        write_rows(values[400:], "b.jsonl")
    if kind == "hub":
        pytest.importorskip("datasets")
        uri = f"hf:{tmp_path}"
    stream = open_stream(uri)
    rows = list(stream.read({}))
    assert [record.value for record, _ in rows] == values
    for i in (0, 298, 299, 300, 399, 400, 998):
        rest = list(stream.read(json.loads(json.dumps(rows[i][1]))))
        assert [record for record, _ in rest] == [record for record, _ in rows[i + 1 :]]


def test_blank_lines_and_bad_lines_of_a_stream(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "b"}\n[1]\n')
    rows = open_stream(str(tmp_path)).read({})
    assert [next(rows)[0].place.rpartition(":")[2] for _ in range(2)] == ["1", "3"]
    with pytest.raises(DataError, match=r"a\.jsonl:4: the row is an array"):
        next(rows)


def test_files_that_can_not_be_streamed_from_a_store_are_told() -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/texts/a.txt", b"x")
    with pytest.raises(DataError, match=r"(?s)only \.jsonl, \.ndjson and \.parquet.*data\.streaming: false"):
        list(open_stream("memory://texts").read({}))
