"""How a supervisor concludes from what its workers left, and progress as displays compute it."""

from __future__ import annotations

import pytest

from nexa.files import write_json
from nexa.runs.progress import Progress
from nexa.supervisor import conclude

ELASTIC = """
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 4242)
  error_file: <N/A>
"""


@pytest.mark.parametrize(
    ("files", "code", "log", "state", "words"),
    [
        ({"result": {"state": "completed"}}, 0, "", "completed", ""),
        ({"result": {"state": "stopped", "reason": "lunch"}}, 0, "", "stopped", "lunch"),
        ({"result": {"state": "completed"}, "kill": {"reason": "late"}}, 0, "", "completed", ""),
        ({"result": {"state": "stopped"}, "kill": {"reason": "now"}}, 0, "", "killed", "now"),
        ({"kill": {"reason": "now"}}, -9, "", "killed", "now"),
        ({"error": {"message": "bad row", "hint": "fix it"}}, 2, "", "failed", "bad row (fix it)"),
        ({"error": {"message": "bad row"}}, 1, ELASTIC, "failed", "bad row"),
        ({"result": {"state": "completed"}, "error": {"message": "rank 1 broke"}}, 1, "", "failed", "rank 1 broke"),
        ({}, -9, "", "failed", "SIGKILL; often the machine ran out of memory"),
        ({}, -11, "", "failed", "SIGSEGV"),
        ({}, 1, ELASTIC, "failed", "SIGKILL"),
        ({}, 3, "", "failed", "exit code 3"),
        ({}, 0, "", "failed", "without a result"),
    ],
)
def test_the_end_is_told_by_the_best_witness(tmp_path, files, code, log, state, words):
    for name, document in files.items():
        write_json(tmp_path / (name if name == "kill" else f"{name}.json"), document)
    concluded, reason = conclude(tmp_path, code, log)
    assert concluded == state
    assert words in reason


def feed(progress: Progress, *records: dict) -> Progress:
    for record in records:
        progress.update(record)
    return progress


def steps(first: int, last: int, *, every: float, phase: str = "training", total: int = 100) -> list[dict]:
    return [
        {"ts": every * step, "type": "progress", "phase": phase, "step": step, "total_steps": total}
        for step in range(first, last + 1)
    ]


def test_time_left_follows_the_newest_speed():
    progress = feed(Progress(), *steps(1, 60, every=1.0), *steps(61, 80, every=1.0))
    assert progress.seconds_left == pytest.approx(20.0)
    assert (progress.phase, progress.step, progress.total_steps) == ("training", 80, 100)


def test_evaluating_does_not_count_as_slow_training():
    records = [*steps(1, 10, every=1.0), {"ts": 500.0, "type": "progress", "phase": "evaluating", "step": 10}]
    records += [{**record, "ts": record["ts"] + 500} for record in steps(11, 20, every=1.0)]
    assert feed(Progress(), *records).seconds_left == pytest.approx(80.0)


def test_preparing_steps_are_no_optimizer_steps():
    progress = feed(Progress(), *steps(1, 5, every=1.0, phase="tokenizing", total=10))
    assert (progress.step, progress.share, progress.seconds_left) == (None, 0.5, None)
    feed(progress, *steps(1, 1, every=1.0))
    assert (progress.step, progress.total_steps, progress.share) == (1, 100, None)


def test_values_keep_what_later_records_lack():
    progress = feed(
        Progress(),
        {"type": "metrics", "step": 1, "values": {"loss": 2.0, "lr": 0.1}},
        {"type": "metrics", "step": 2, "values": {"loss": None}},
        {"type": "eval", "step": 2, "values": {"eval_loss": 3.0}},
        {"type": "unknown"},
    )
    assert progress.values == {"loss": 2.0, "lr": 0.1, "eval_loss": 3.0}
