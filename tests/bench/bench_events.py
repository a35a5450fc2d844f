"""Reading and writing run events. Target: 1M records in ≤2 s where the loop over json.loads takes about 4 s."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench._measure import measure, report

from nexa.events.metrics import MetricsReader
from nexa.events.reader import EventReader
from nexa.events.writer import EventWriter

WRITES = 20_000


def main(argv: Sequence[str] = ()) -> None:
    """Compare the readers with plain json.loads, and the writer with a plain append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "1-0.jsonl"
        fill(path, options.records)
        compare_readers(path, options.records, options.rounds)
        follow(path)
        compare_writers(folder, options.rounds)


def fill(path: Path, count: int) -> None:
    """Write a run's events: nearly all of them metrics."""
    with path.open("w") as file:
        for step in range(1, count + 1):
            values = f'"loss":{3 - step / count:.6f},"lr":0.0003,"grad_norm":1.25,"tokens_per_second":915.5'
            file.write(f'{{"ts":{1.8e9 + step:.3f},"type":"metrics","step":{step},"values":{{{values}}}}}\n')


def compare_readers(path: Path, count: int, rounds: int) -> None:
    """Read the whole file in three ways."""
    candidates = {
        "MetricsReader": lambda: MetricsReader(path.parent).poll(),
        "EventReader": lambda: EventReader(path).poll(),
        "json.loads": lambda: [json.loads(line) for line in path.open("rb")],
    }
    timings = measure(candidates, rounds=rounds, warm_up=False)
    for candidate in ("MetricsReader", "EventReader"):
        report(f"{candidate}: {count:,} records", timings, candidate=candidate, target="≤2 s")


def follow(path: Path) -> None:
    """Print what a poll costs when nothing, and when one record, is new in a long file."""
    reader = EventReader(path)
    reader.poll()
    started = time.perf_counter()
    for _ in range(100):
        reader.poll()
    idle = (time.perf_counter() - started) / 100
    with path.open("a") as file:
        file.write('{"ts":1.0,"type":"heartbeat"}\n')
    started = time.perf_counter()
    records = reader.poll()
    print(f"\nfollowing: {idle * 1e6:.0f} µs an idle poll, {(time.perf_counter() - started) * 1e6:.0f} µs for one new")
    assert len(records) == 1


def compare_writers(folder: Path, rounds: int) -> None:
    """Append records one by one, each visible at once."""
    values = {"loss": 1.25, "lr": 3e-4, "grad_norm": 1.5}

    def with_writer() -> None:
        writer = EventWriter(Path(tempfile.mkdtemp(dir=folder)) / "1-0.jsonl")
        for step in range(WRITES):
            writer.write("metrics", step=step, values=values)
        writer.close()

    def with_json() -> None:
        with (Path(tempfile.mkdtemp(dir=folder)) / "1-0.jsonl").open("a") as file:
            for step in range(WRITES):
                file.write(json.dumps({"ts": time.time(), "type": "metrics", "step": step, "values": values}) + "\n")
                file.flush()

    timings = measure({"EventWriter": with_writer, "json.dumps, flushed": with_json}, rounds=rounds, warm_up=False)
    report(f"{WRITES:,} writes", timings, candidate="EventWriter")
