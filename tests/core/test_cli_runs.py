"""The commands that show and steer runs, against real runs."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from nexa.cli.main import main
from nexa.events.writer import EventWriter
from nexa.files import write_json


@pytest.fixture
def nexa(capsys):
    """Runs one command; returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def ended(runs):
    """A completed run of three steps."""
    run = runs.launch("done", steps=3, save_every=2)
    runs.await_end(run)
    return run


def test_listing_without_runs_says_how_to_start(nexa, runs):
    code, out, _ = nexa("runs")
    assert code == 0
    assert "nexa launch quickstart" in out
    assert json.loads(nexa("runs", "--json")[1]) == []


def test_runs_are_listed_newest_first(nexa, runs, ended):
    other = runs.make("idle")
    code, out, _ = nexa("runs")
    assert code == 0
    assert ended.run_id in out
    assert "3/3" in out
    assert "completed" in out
    listed = json.loads(nexa("runs", "--json")[1])
    assert {item["run_id"] for item in listed} == {ended.run_id, other.run_id}
    assert [item["created_at"] for item in listed] == sorted((item["created_at"] for item in listed), reverse=True)
    assert json.loads(nexa("runs", "--json", "-n", "1")[1]) == listed[:1]
    assert json.loads(nexa("runs", "--active", "--json")[1]) == []


def test_show_tells_everything(nexa, ended):
    code, out, _ = nexa("show", "done")
    assert code == 0
    for part in (ended.run_id, "completed", "3/3", "loss 3.333", "step-00000002", "step-00000003", "count by counting"):
        assert part in out
    document = json.loads(nexa("show", "latest", "--json")[1])
    assert (document["state"], document["step"], len(document["checkpoints"])) == ("completed", 3, 2)
    assert document["attempts"][0]["exit_code"] == 0


def test_unknown_runs_are_a_user_error(nexa, ended):
    for command in ("show", "logs", "metrics", "stop", "kill", "resume"):
        code, _, err = nexa(command, "nope")
        assert code == 2
        assert "there is no run 'nope'" in err
        assert ended.run_id in err


def test_metrics_as_table_csv_and_json(nexa, ended):
    code, out, _ = nexa("metrics", "done")
    assert code == 0
    assert "3.333" in out
    rows = list(csv.DictReader(io.StringIO(nexa("metrics", "done", "--csv", "-k", "loss")[1])))
    assert [(row["kind"], row["step"], float(row["loss"])) for row in rows] == [
        ("training", "1", 10.0),
        ("training", "2", 5.0),
        ("training", "3", pytest.approx(10 / 3)),
    ]
    document = json.loads(nexa("metrics", "done", "--json", "-n", "1")[1])
    assert [point["values"] for point in document["training"]] == [{"loss": pytest.approx(10 / 3), "sum": 6}]
    code, _, err = nexa("metrics", "done", "-k", "los")
    assert code == 2
    assert "loss, sum" in err


def test_logs_are_shown_harmless(nexa, ended):
    log = ended.path / "logs" / "1-0.log"
    log.write_bytes(b"one\n\x1b[2Jtwo\r\xc2\x9b31m\n" + "\u202ethree".encode() + b"\nlast without newline")
    code, out, _ = nexa("logs", "done")
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert out.splitlines()[-1] == "last without newline"
    assert nexa("logs", "done", "--tail", "2")[1].splitlines() == ["<U+202E>three", "last without newline"]
    assert nexa("logs", "done", "--tail", "0")[1] == ""
    assert "starting workers" in nexa("logs", "done", "--rank", "supervisor")[1]
    assert "[supervisor] " in nexa("logs", "done", "--rank", "all")[1]
    for arguments, words in (
        (("--rank", "7"), "logs: 0, supervisor"),
        (("--attempt", "9"), "attempts: 1"),
        (("--rank", "x"), "supervisor"),
    ):
        code, _, err = nexa("logs", "done", *arguments)
        assert code == 2
        assert words in err


@pytest.mark.parametrize("tail", range(6))
def test_the_tail_of_a_log_is_exact(nexa, ended, tail):
    lines = [f"line {number} " + "x" * (40_000 * (number % 2)) for number in range(5)]
    (ended.path / "logs" / "1-0.log").write_text("".join(f"{line}\n" for line in lines))
    assert nexa("logs", "done", "--tail", str(tail))[1].splitlines() == lines[len(lines) - min(tail, 5) :]


def test_following_a_log_ends_with_the_run(nexa, runs):
    runs.launch("short", steps=10, step_seconds=0.05)
    code, out, _ = nexa("logs", "-f", "short")
    assert code == 0
    assert "counts from 0 to 10" in out
    assert "completed at step 10" in out


def test_stop_waits_and_resume_continues(nexa, runs):
    run = runs.launch("long", steps=400, step_seconds=0.02)
    runs.await_status(run, lambda status: (status.step or 0) > 2)
    code, out, _ = nexa("stop", "long", "--wait")
    assert code == 0
    assert "stopped at step" in out
    assert "checkpoint: checkpoints/" in out
    assert nexa("stop", "long")[0] == 2
    assert nexa("kill", "long")[0] == 2
    code, out, _ = nexa("resume", "long", "--detach")
    assert code == 0
    assert "attempt 2, resumes from checkpoints/" in out
    assert nexa("resume", "long")[0] == 2
    code, out, _ = nexa("kill", "long")
    assert code == 0
    assert "killed" in out


def test_following_shows_progress_samples_and_what_to_do_next(nexa, runs):
    run = runs.launch("fails", steps=5, crash_at=3)
    runs.await_end(run)
    code, out, _ = nexa("resume", "fails", "--follow")
    assert code == 0
    assert "step 5/5" in out
    assert "saved checkpoints/" in out
    assert "nexa chat checkpoints/" in out


@pytest.mark.parametrize(("meta", "code"), [({"crash_at": 2}, 1), ({"fail_at": 2}, 2)])
def test_following_a_failure_shows_why(runs, capsys, meta, code):
    from nexa.cli.follow import follow

    assert follow(runs.launch("fails", steps=5, **meta)) == code
    out = capsys.readouterr().out
    assert "failed" in out
    assert ("RuntimeError" if code == 1 else "rows.jsonl:7") in out
    assert "nexa resume" in out


def test_hostile_event_text_is_shown_harmless(runs, capsys):
    from nexa.cli.follow import follow

    run = runs.make("hostile")
    run.create_attempt(1, resume_from=None, reason="launched")
    writer = EventWriter(run.latest_attempt.events_path)
    evil = "[red]x[/red][/] \x1b]0;owned\x07 \u202e"
    writer.write("message", level="warning", text=evil)
    writer.write("sample", step=1, prompt=evil, text=evil)
    writer.write("progress", phase=evil, step=1, total_steps=2)
    write_json(run.latest_attempt.path / "exit.json", {"state": "failed", "reason": evil, "exit_code": 1})
    assert follow(run) == 1
    out = capsys.readouterr().out
    assert "[red]x[/red][/]" in out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)


def test_ctrl_c_on_a_terminal_detaches_and_leaves_the_run(runs):
    run = runs.launch("watched", steps=2000, step_seconds=0.05)
    code = "import sys; from nexa.cli.follow import follow; from nexa.cli.runref import open_run; "
    code += "sys.exit(follow(open_run('watched')))"
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, "-c", code], {**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    seen, interrupted = b"", False
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                break
        if b"loss" in seen and b"left" in seen and not interrupted:
            interrupted = os.write(terminal, b"\x03") == 1
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert b"training" in seen
    assert b"left" in seen
    assert b"nexa stop" in seen
    assert runs.await_status(run, lambda status: True).active


def test_a_run_outlives_the_terminal_that_started_it(runs):
    """The terminal is closed (SIGHUP to its session) right after the launch."""
    run = runs.make("survivor", steps=2000, step_seconds=0.05)
    run.create_attempt(1, resume_from=None, reason="launched")
    code = f"""
from pathlib import Path
from nexa_local.scheduler import LocalScheduler
from nexa.scheduler import Attempt
attempt = Attempt(run_id={run.run_id!r}, run_dir=Path({str(run.path)!r}), number=1)
scheduler = LocalScheduler()
scheduler.submit(attempt, scheduler.plan(None, attempt, None, None))
print("submitted", flush=True)
input()
"""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    seen = b""
    while b"submitted" not in seen:
        seen += os.read(terminal, 1024)
    os.close(terminal)
    os.waitpid(child, 0)
    step = runs.await_status(run, lambda status: (status.step or 0) > 1).step
    status = runs.await_status(run, lambda status: (status.step or 0) > step + 5)
    assert status.state == "running"
    os.kill(runs.pid(run, "supervisor"), signal.SIGTERM)
    assert runs.await_end(run).state == "stopped"


def test_listing_200_runs_is_quick_and_imports_nothing_heavy(runs):
    for number in range(200):
        run = runs.make(f"r{number}")
        run.create_attempt(1, resume_from=None, reason="launched")
        writer = EventWriter(run.latest_attempt.events_path)
        for step in range(100):
            writer.write("metrics", step=step, values={"loss": 1.0})
        writer.close()
        write_json(run.latest_attempt.path / "exit.json", {"state": "completed"})
    code = """
import sys, time
begin = time.process_time()
from nexa.cli.main import main
main(["runs", "-n", "0"])
heavy = {"torch", "transformers", "numpy", "textual"} & set(sys.modules)
print(time.process_time() - begin, heavy, file=sys.stderr)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert len(answer.stdout.splitlines()) == 201
    seconds, _, heavy = answer.stderr.strip().partition(" ")
    assert heavy == "set()"
    assert float(seconds) < 1.0
