"""Comparing runs: the logic over real event files, the command, and the screen."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path

import pytest

from nexa.cli.main import main
from nexa.errors import UserError
from nexa.runs.compare import Comparison, change
from nexa.runs.store import Run, RunStore


def make_run(project: Path, name: str, *, steps: range, loss: float, **training: object) -> Run:
    """A run directory with a recipe and a curve on a grid of steps of its own."""
    recipe = {"method": "sft", "training": {"max_steps": 100, **training}, "run": {"name": name}}
    store = RunStore(project / "runs")
    document = {"scheduler": "local", "recipe_name": name, "method": "sft", "backend": "echo"}
    plan = {"recipe": recipe, "lineage": {"dataset": {"hash": f"sha-{name[0]}"}}}
    run = store.create(name, document=document, recipe_yaml="", plan=plan)
    run.create_attempt(1, resume_from=None, reason="launched")
    records = [
        {"type": "metrics", "ts": 100.0 + step, "step": step, "values": {"loss": loss + 1 / step, "lr": 0.001}}
        for step in steps
    ]
    records.append({"type": "eval", "ts": 300.0, "step": steps[-1], "values": {"eval_loss": loss}})
    lines = [json.dumps(record) for record in records]
    # A torn line, a NaN and a record out of order harm nothing.
    lines[1:1] = ["{torn", json.dumps({"type": "metrics", "ts": 1, "step": steps[0], "values": {"loss": None}})]
    (run.path / "events" / "1-0.jsonl").write_text("\n".join(lines) + "\n")
    return run


@pytest.fixture
def three(project: Path) -> list[Run]:
    """Runs on different grids: every step to 100, every 5th to 60, every 7th to 91."""
    return [
        make_run(project, "alpha", steps=range(1, 101), loss=2.0, seed=1),
        make_run(project, "beta", steps=range(5, 61, 5), loss=1.0, seed=2),
        make_run(project, "gamma", steps=range(7, 92, 7), loss=3.0, seed=1),
    ]


def _compared(runs: list[Run]) -> Comparison:
    comparison = Comparison(runs)
    comparison.poll()
    return comparison


def test_metrics_are_compared_at_the_last_step_that_all_have(three):
    [loss, evaluation] = sorted(_compared(three).metric_differences(), key=lambda row: row.name, reverse=True)
    assert loss.name == "loss"
    assert loss.step == 60
    assert loss.values == pytest.approx((2 + 1 / 60, 1 + 1 / 60, 3 + 1 / 56))
    assert loss.last == pytest.approx((2.01, 1 + 1 / 60, 3 + 1 / 91))
    assert (evaluation.name, evaluation.step, evaluation.values) == ("eval_loss", None, (2.0, 1.0, 3.0))
    assert change(loss.values[1], loss.values[0]) == pytest.approx(-0.4959, abs=1e-3)
    assert change(1.0, 0.0) is None
    assert change(None, 1.0) is None


def test_equal_settings_and_metrics_are_left_out(three):
    comparison = _compared(three)
    found = {row.path: row.values for row in comparison.settings()}
    assert found["training.seed"] == (1, 2, 1)
    assert found["lineage.dataset.hash"] == ("sha-a", "sha-b", "sha-g")
    assert "training.max_steps" not in found
    assert "lr" in comparison.metrics
    assert "lr" not in {row.name for row in comparison.metric_differences()}


def test_csv_holds_every_step_of_every_run(three):
    rows = list(csv.DictReader(io.StringIO(_compared(three).csv(["loss"]))))
    assert [int(row["step"]) for row in rows] == sorted({*range(1, 101), *range(5, 61, 5), *range(7, 92, 7)})
    step_35 = next(row for row in rows if row["step"] == "35")
    assert all(step_35[run.run_id] for run in three)
    assert next(row for row in rows if row["step"] == "36")[three[1].run_id] == ""


def test_what_can_not_be_compared_is_said(three, capsys):
    with pytest.raises(UserError, match="named twice"):
        Comparison([three[0], three[0]])
    with pytest.raises(UserError, match="can't be compared"):
        Comparison(three[:1])
    assert main(["diff", "alpha"]) == 2
    assert main(["diff", "alpha", "beta", "-k", "lr_"]) == 2
    assert "they have: loss, lr, eval_loss" in capsys.readouterr().err
    assert main(["diff", "alpha", "beta", "--csv", "--json"]) == 2


def test_the_command_prints_differences(three, capsys):
    assert main(["diff", "alpha", "beta"]) == 0
    printed = capsys.readouterr().out
    assert "training.seed" in printed
    assert "(-49.6%)" in printed
    assert main(["diff", "alpha", "beta", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == [three[0].run_id, three[1].run_id]
    assert {"path": "training.seed", "values": [1, 2]} in document["settings"]
    assert main(["diff", "alpha", "beta", "--csv", "-k", "eval_loss"]) == 0
    assert capsys.readouterr().out.count("\n") == 3


def test_a_damaged_run_is_compared_all_the_same(three):
    (three[1].path / "plan.json").write_text("{")
    found = {row.path: row.values for row in _compared([Run(run.path) for run in three]).settings()}
    assert found["training.seed"] == (1, None, 1)


def test_the_screen_overlays_runs_and_shows_only_differences(three, project, opened, until, screen_text):
    """Three runs on three grids; baseline, single metric, CSV."""

    async def check() -> None:
        async with opened(screen="2") as pilot:
            app = pilot.app
            await app.compare([run.run_id for run in three])
            await until(pilot, lambda: "training.seed" in screen_text(app) and "C " in screen_text(app))
            text = screen_text(app)
            assert f"A ━━ {three[0].run_id}" in text
            assert text.split("baseline")[0].count("━━") == 1
            assert "max_steps" not in text
            assert "(-49.6%)" in text
            charts = app.screen.pane.curves.charts
            assert [chart.name for chart in charts] == ["loss", "lr", "eval_loss"] or "loss" in charts[0].name
            assert len(charts[0].lines) >= 3
            await pilot.press("b")
            await until(pilot, lambda: "(+98.4%)" in screen_text(app))
            await pilot.press("m")
            await until(pilot, lambda: len(app.screen.pane.curves.charts) == 1)
            await pilot.press("w")
            await until(pilot, lambda: list(project.glob("compare-*.csv")))
            await until(pilot, lambda: next(project.glob("compare-*.csv")).read_text().count("\n") > 100)

    asyncio.run(check())


def test_without_a_choice_the_two_newest_are_compared(three, opened, until, screen_text):
    """And two runs must be there at all."""

    async def check() -> None:
        async with opened(screen="4", size=(80, 24), readonly=True) as pilot:
            await until(pilot, lambda: pilot.app.compared == [run.run_id for run in reversed(three[1:])])
            await until(pilot, lambda: "baseline" in screen_text(pilot.app))
            await pilot.press("w")
            await until(pilot, lambda: "can't write a file" in screen_text(pilot.app))

    asyncio.run(check())


def test_too_few_runs_are_said(project, opened, until, screen_text):
    """With what to do."""

    async def check() -> None:
        async with opened(screen="4") as pilot:
            await until(pilot, lambda: "no two runs to compare yet" in screen_text(pilot.app))

    asyncio.run(check())
