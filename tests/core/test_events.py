"""Event files: what is written can be read, torn, cut, replaced or malformed."""

from __future__ import annotations

import json
import math
import os
import threading
import time

import pytest

from nexa.errors import WorkerError
from nexa.events.metrics import MetricsReader, MetricTable
from nexa.events.reader import EventReader, read_tail
from nexa.events.writer import EventWriter


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events" / "1-0.jsonl"


def test_records_come_back_in_order_and_only_once(path):
    writer, reader = EventWriter(path), EventReader(path)
    assert reader.poll() == []
    writer.write("metrics", step=1, values={"loss": 2.5})
    (record,) = reader.poll()
    assert record["type"] == "metrics"
    assert record["values"] == {"loss": 2.5}
    assert abs(record["ts"] - time.time()) < 5
    assert reader.poll() == []
    writer.write("heartbeat")
    assert [record["type"] for record in reader.poll()] == ["heartbeat"]


def test_time_never_goes_backwards(path, monkeypatch):
    writer = EventWriter(path)
    for now in (100.0, 50.0, 101.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        writer.write("heartbeat")
    assert [record["ts"] for record in EventReader(path).poll()] == [100.0, 100.0, 101.0]


def test_a_file_has_one_writer(path):
    EventWriter(path)
    with pytest.raises(WorkerError, match="File exists"):
        EventWriter(path)


def test_numbers_json_lacks_become_null_and_are_told_once(path):
    writer = EventWriter(path)
    for _ in range(3):
        writer.write("metrics", step=1, values={"loss": math.nan, "lr": 1.0, "deep": [math.inf, {"x": -math.inf}]})
    records = EventReader(path).poll()
    assert [record["type"] for record in records] == ["metrics", "message", "metrics", "metrics"]
    assert records[0]["values"] == {"loss": None, "lr": 1.0, "deep": [None, {"x": None}]}
    assert "values.loss" in records[1]["text"]


def test_any_text_survives_as_one_line(path):
    text = "a\nb\r\u2028\x1b[31m\x00\x9b é 漢 😀 \ud800 end"
    EventWriter(path).write("sample", text=text, step=0, prompt="p")
    data = path.read_bytes()
    assert data.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in data[:-1]), "a record is safe to print"
    assert EventReader(path).poll()[0]["text"] == text.replace("\ud800", "\ufffd")


def test_secrets_are_removed_and_listeners_see_what_is_written(path):
    seen = []
    writer = EventWriter(path, listener=seen.append, clean=lambda text: text.replace("hunter22", "[redacted]"))
    writer.write("message", level="info", text="password hunter22")
    assert seen[0]["text"] == "password [redacted]"
    assert EventReader(path).poll() == seen


def test_threads_do_not_mix_their_lines(path):
    writer = EventWriter(path)
    threads = [
        threading.Thread(target=lambda n=n: [writer.write("x", n=n, i=i, pad="y" * 500) for i in range(200)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = EventReader(path)
    records = reader.poll()
    assert (len(records), reader.malformed) == (800, 0)
    assert all([r["i"] for r in records if r["n"] == n] == list(range(200)) for n in range(4))


def test_a_torn_tail_waits_until_it_is_whole(path):
    EventWriter(path).write("heartbeat")
    reader = EventReader(path)
    line = json.dumps({"ts": 1, "type": "end", "text": "é"}).encode() + b"\n"
    for end in range(1, len(line)):
        with path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(line[end - 1 : end])
        assert len(reader.poll()) == (1 if end == 1 else 0)
    with path.open("ab") as file:
        file.write(line[-1:])
    assert [record["type"] for record in reader.poll()] == ["end"]
    assert reader.malformed == 0


def test_malformed_lines_are_counted_and_skipped(path):
    path.parent.mkdir()
    path.write_bytes(b'{"type":"a"}\nnot json\n{"type":"b"\n[1]\n\xff\xfe\n\n{"type":"c"}\n' + b"\0" * 20 + b"\n")
    reader = EventReader(path)
    assert [record["type"] for record in reader.poll()] == ["a", "c"]
    assert reader.malformed == 5
    with path.open("ab") as file:
        file.write(b'{"type":"d"}\n')
    assert [record["type"] for record in reader.poll()] == ["d"]


@pytest.mark.parametrize("longer", [False, True])
def test_a_replaced_or_cut_file_is_read_anew(path, longer):
    path.parent.mkdir()
    path.write_text('{"type":"a"}\n{"type":"b"}\n')
    reader = EventReader(path)
    assert len(reader.poll()) == 2
    path.write_text('{"type":"c"}\n' * (5 if longer else 1))
    assert [record["type"] for record in reader.poll()] == ["c"] * (5 if longer else 1)
    assert reader.restarts == 1
    other = path.with_name("new")
    other.write_text('{"type":"d"}\n')
    other.replace(path)
    assert [record["type"] for record in reader.poll()] == ["d"]


def test_tailing_reads_only_what_is_new(path, monkeypatch):
    writer = EventWriter(path)
    for step in range(20_000):
        writer.write("metrics", step=step, values={"loss": 1.0})
    reader = EventReader(path)
    reader.poll()
    read = []
    pread = os.pread
    monkeypatch.setattr("os.pread", lambda *arguments: read.append(pread(*arguments)) or read[-1])
    assert reader.poll() == []
    assert read == [], "nothing new costs one stat"
    writer.write("heartbeat")
    assert len(reader.poll()) == 1
    assert sum(map(len, read)) < 300


def test_a_line_longer_than_a_block_is_read(path):
    writer = EventWriter(path)
    writer.write("sample", text="x" * 9_000_000)
    writer.write("heartbeat")
    assert [len(record.get("text", "")) for record in EventReader(path).poll()] == [9_000_000, 0]


def test_the_tail_of_a_file_is_whole_records(path):
    writer = EventWriter(path)
    for step in range(1000):
        writer.write("progress", step=step)
    with path.open("ab") as file:
        file.write(b'{"type":"torn')
    records = read_tail(path, max_bytes=1000)
    assert 5 < len(records) < 30
    assert records[-1]["step"] == 999
    assert read_tail(path.with_name("none")) == []


def test_metrics_become_columns(tmp_path):
    writer = EventWriter(tmp_path / "1-0.jsonl")
    reader = MetricsReader(tmp_path)
    writer.write("metrics", step=1, values={"loss": 3.0, "lr": 0.1})
    writer.write("eval", step=1, values={"eval_loss": 4.0})
    assert reader.poll()
    writer.write("metrics", step=2, values={"loss": math.nan, "new": 7.0})
    assert reader.poll()
    assert not reader.poll()
    table = reader.training
    assert list(table.steps) == [1, 2]
    assert table.series("loss") == ([1], [3.0])
    assert table.series("new") == ([2], [7.0])
    assert table.series("none") == ([], [])
    assert [values for _, _, values in table.rows()] == [{"loss": 3.0, "lr": 0.1}, {"new": 7.0}]
    assert reader.evaluation.series("eval_loss") == ([1], [4.0])


def test_repeated_steps_of_a_resumed_run_count_once(tmp_path):
    first = EventWriter(tmp_path / "1-0.jsonl")
    for step in range(1, 8):
        first.write("metrics", step=step, values={"loss": 1.0})
    reader = MetricsReader(tmp_path)
    reader.poll()
    EventWriter(tmp_path / "2-0.jsonl").write("message", text="no step was taken")
    third = EventWriter(tmp_path / "4-0.jsonl")
    third.write("metrics", step=5, values={"loss": 2.0})
    reader.poll()
    assert reader.training.series("loss") == ([1, 2, 3, 4, 5], [1.0, 1.0, 1.0, 1.0, 2.0])


def test_an_empty_table_is_truncated_without_complaint():
    table = MetricTable()
    table.truncate_from(0)
    assert len(table) == 0
