"""The answers before and after training, from the events of a run's attempts."""

from __future__ import annotations

import json

from nexa.cli.main import main
from nexa.events.writer import EventWriter
from nexa.runs.samples import SampleChange, sample_changes


def sampled(run, attempt: int, *samples: tuple[int, str, str]) -> None:
    """Write the events of one attempt that sampled these (step, prompt, text)."""
    run.create_attempt(attempt, resume_from=None, reason="test")
    writer = EventWriter(run.attempts[-1].events_path)
    for step, prompt, text in samples:
        writer.write("sample", step=step, prompt=prompt, text=text)
    writer.close()


def test_first_and_newest_answer_over_all_attempts(runs):
    run = runs.make()
    sampled(run, 1, (0, "Who?", "A model."), (4, "Who?", "Arr"), (8, "Who?", "Lost with the crash."))
    sampled(run, 2, (4, "Why?", "Because."), (12, "Who?", "A captain!"))
    assert sample_changes(run) == [
        SampleChange(prompt="Who?", first_step=0, first="A model.", last_step=12, last="A captain!"),
        SampleChange(prompt="Why?", first_step=4, first="Because.", last_step=4, last="Because."),
    ]


def test_show_prints_them_without_terminal_controls(runs, capsys):
    run = runs.make()
    assert main(["show", run.run_id, "--samples"]) == 0
    assert "samples.prompts" in capsys.readouterr().out
    sampled(run, 1, (0, "Who?", "A model."), (4, "Who?", "\x1b]0;owned\x07 a\n\ncaptain " + "sailing " * 30))
    assert main(["show", run.run_id, "--samples"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Who?\n  before  A model.\n  after   ")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 100
    assert main(["show", run.run_id, "--samples", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["last_step"] == 4
