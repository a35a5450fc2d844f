"""Reading a run's events: targets 1M records in ≤2 s cold, and a poll that costs only what is new.

The peer is what a script would do: `json.loads` of every line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _measure import measure, report

from nexa.events.metrics import MetricsReader
from nexa.events.reader import EventReader


def main() -> None:
    """Measure cold reads as records and as columns, then polls of a file that grows by one record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "1-0.jsonl"
        with path.open("w") as file:
            for step in range(options.records):
                file.write(record(step))
        timings = measure(
            {
                "columns": lambda: MetricsReader(path.parent).poll(),
                "records": lambda: EventReader(path).poll(),
                "json.loads": lambda: [json.loads(line) for line in path.open()],
            },
            rounds=options.rounds,
            warm_up=False,
        )
        report(f"{options.records:,} records, cold", timings, candidate="columns", target="1M in ≤2 s")
        tail(path, options.records)


def tail(path: Path, records: int) -> None:
    """Print what a poll costs with nothing new and with one new record."""
    reader = MetricsReader(path.parent)
    reader.poll()
    started = time.perf_counter()
    for _ in range(1000):
        reader.poll()
    idle = (time.perf_counter() - started) / 1000
    started = time.perf_counter()
    for step in range(1000):
        with path.open("a") as file:
            file.write(record(records + step))
        assert reader.poll()
    busy = (time.perf_counter() - started) / 1000
    print(
        f"\npoll of a file of {records:,} records: nothing new {idle * 1e6:.0f} µs, one new record {busy * 1e6:.0f} µs"
    )


def record(step: int) -> str:
    """One line as a training loop writes it."""
    values = {
        "loss": 2.3456789,
        "lr": 1e-5 * step,
        "grad_norm": 1.234,
        "tokens_per_second": 1234.5,
        "tokens": step * 512,
    }
    document = {"ts": 1795237338.02 + step / 7, "type": "metrics", "step": step, "values": values}
    return json.dumps(document, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    main()
