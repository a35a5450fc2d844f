"""Curves: decimation keeps extremes and gaps, smoothing is exact, axes and views agree with the run."""

from __future__ import annotations

import numpy as np
import pytest

from nexa.tui.charts.curves import CurveReader
from nexa.tui.charts.decimate import Smoother, decimate
from nexa.tui.charts.view import WEIGHTS, ChartView, log_ticks, nice_ticks, x_label, y_label


def test_a_million_points_become_two_a_column_with_every_spike():
    x = np.arange(1_000_000, dtype=np.float64)
    y = np.sin(x / 1e5)
    y[123_456], y[987_654] = 50.0, -40.0
    pieces = decimate(x, y, 120, 0.0, 999_999.0)
    assert len(pieces) == 1
    xs, ys = pieces[0]
    assert len(xs) <= 240
    assert ys.max() == 50.0
    assert ys.min() == -40.0
    assert np.all(np.diff(xs) >= 0)


def test_columns_are_drawn_in_the_direction_of_the_curve():
    x = np.arange(100, dtype=np.float64)
    ((_, falling),) = decimate(x, -x, 4, 0.0, 99.0)
    assert np.all(np.diff(falling) <= 0)


@pytest.mark.parametrize("points", [10, 100_000])
def test_nan_is_a_gap(points):
    x = np.arange(points, dtype=np.float64)
    y = np.ones(points)
    y[points * 4 // 10 : points * 6 // 10] = np.nan
    pieces = decimate(x, y, 100, 0.0, points - 1.0)
    assert len(pieces) == 2
    assert all(np.isfinite(ys).all() for _, ys in pieces)
    assert pieces[0][0][-1] < pieces[1][0][0]


def test_only_the_part_in_view_is_drawn():
    x = np.arange(1000, dtype=np.float64)
    ((xs, _),) = decimate(x, x, 500, 100.0, 200.0)
    assert xs[0] == 100.0
    assert xs[-1] == 200.0
    assert decimate(x, x, 10, 2000.0, 3000.0) == []
    assert decimate(np.empty(0), np.empty(0), 10, 0.0, 1.0) == []


def naive(values, weight):
    total = weights = 0.0
    smooth = []
    for value in values:
        finite = np.isfinite(value)
        total = weight * total + (1 - weight) * (value if finite else 0.0)
        weights = weight * weights + (1 - weight) * finite
        smooth.append(total / weights if finite else np.nan)
    return np.array(smooth)


@pytest.mark.parametrize("weight", WEIGHTS[1:])
def test_the_average_equals_the_plain_loop_however_it_is_fed(weight):
    values = np.random.default_rng(1).normal(size=1000)
    values[[0, 17, 500]] = np.nan
    smoother = Smoother(weight)
    for end in (1, 2, 63, 64, 65, 400, 1000):
        smooth = smoother.update(values[:end])
    np.testing.assert_allclose(smooth, naive(values, weight), rtol=1e-9)
    np.testing.assert_allclose(Smoother(weight).update(values), naive(values, weight), rtol=1e-9)


def test_the_average_begins_anew_when_the_series_did():
    smoother = Smoother(0.9)
    smoother.update(np.arange(10.0))
    other = np.arange(5.0) * 3
    np.testing.assert_allclose(smoother.update(other), naive(other, 0.9))


def chart(curves, name):
    return next(chart for chart in curves.charts if chart.name == name)


def test_curves_follow_the_run_over_its_attempts(site):
    run = site.run()
    site.train(run.path, 1, 50)
    site.events(run.path, [{"type": "eval", "step": 40, "values": {"eval_loss": 1.5, "perplexity": 4.5}}])
    reader = CurveReader(run.path / "events")
    first = reader.poll(0.9)
    assert reader.poll(0.9) is first
    loss = chart(first, "loss")
    assert loss.training.x["step"][-1] == 50
    assert loss.training.x["tokens"][-1] == 50_000
    assert loss.training.x["time"][-1] == 49
    assert loss.evaluation.values.tolist() == [1.5]
    assert loss.evaluation.x["tokens"].tolist() == [40_000.0]
    assert chart(first, "perplexity").training is None
    assert [each.name for each in first.charts][:2] == ["loss", "perplexity"]
    site.train(run.path, 31, 60, attempt=2)
    second = reader.poll(0.9)
    assert chart(second, "loss").training.x["step"].tolist() == list(range(1, 61))
    assert second.resumes["step"].tolist() == [31.0]
    np.testing.assert_allclose(
        chart(second, "loss").training.smooth, naive(chart(second, "loss").training.values, 0.9), rtol=1e-9
    )


def test_torn_null_and_disordered_records_are_drawn_as_far_as_they_can_be(site):
    run = site.run()
    site.train(run.path, 1, 10)
    site.train(run.path, 11, 12, loss=None)
    site.train(run.path, 13, 20)
    site.events(run.path, [{"type": "metrics", "step": 5, "values": {"loss": 9.0}}])
    site.events(run.path, [{"type": "metrics", "step": "x", "values": {"loss": 1}}, {"type": "metrics"}])
    with (run.path / "events" / "1-0.jsonl").open("ab") as file:
        file.write(b'{"ts":1,"type":"metrics"]\n\xff\xfe\n{"ts":2,"type":"metrics","step":99,"val')
    curves = CurveReader(run.path / "events").poll(0.0)
    loss = chart(curves, "loss").training
    assert np.all(np.diff(loss.x["step"]) >= 0)
    assert np.isnan(loss.values[(loss.x["step"] == 11) | (loss.x["step"] == 12)]).all()
    assert loss.x["step"].max() == 20
    assert curves.malformed == 3
    assert len(decimate(loss.x["step"], loss.values, 200, 1, 20)) == 2


def test_a_value_that_is_recorded_now_and_then_is_one_line(site):
    run = site.run()
    for step in range(1, 30):
        site.events(run.path, [{"type": "metrics", "step": step, "values": {"loss": 1.0}}])
        if step % 5 == 0:
            site.events(run.path, [{"type": "metrics", "step": step, "values": {"loss": 1.0, "rare": 2.0}}])
    rare = chart(CurveReader(run.path / "events").poll(0.0), "rare").training
    assert len(decimate(rare.x["step"], rare.values, 100, 0, 30)) == 1


def test_a_schedule_is_drawn_as_it_is(site):
    run = site.run()
    for step in range(1, 5):
        site.events(run.path, [{"type": "metrics", "step": step, "values": {"loss": 1.0, "lr": 0.1 * step}}])
    curves = CurveReader(run.path / "events").poll(0.9)
    assert chart(curves, "loss").training.smooth is not None
    assert chart(curves, "lr").training.smooth is None


def test_the_nearest_point_is_found(site):
    run = site.run()
    site.train(run.path, 10, 20)
    loss = chart(CurveReader(run.path / "events").poll(0.0), "loss").training
    assert [loss.x["step"][loss.nearest("step", x)] for x in (-5, 10.4, 10.6, 99)] == [10, 10, 11, 20]


def test_views_zoom_pan_and_survive_as_json():
    view, extent = ChartView(), (0.0, 100.0)
    view.zoom(-1, extent)
    assert view.limits(extent) == pytest.approx((20.0, 80.0))
    view.pan(-1, extent)
    view.pan(-1, extent)
    assert view.limits(extent) == pytest.approx((0.0, 60.0))
    view.smooth(1)
    view.log_y = True
    assert ChartView.from_document(view.document()) == view
    for _ in range(3):
        view.zoom(1, extent)
    assert view.limits(extent) == extent
    view.zoom(-1, extent, around=10.0)
    low, high = view.limits(extent)
    assert (10 - low) / (high - low) == pytest.approx(0.1)
    view.next_axis()
    assert (view.axis, view.low) == ("time", None)
    damaged = {"axis": 3, "low": "a", "high": None, "smoothing": 99, "log_y": "yes"}
    assert ChartView.from_document(damaged) == ChartView()
    for _ in range(200):
        view.zoom(-1, extent)
    assert view.limits(extent)[0] < view.limits(extent)[1]


def test_ticks_are_round():
    assert nice_ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert nice_ticks(0.13, 0.34, 4) == pytest.approx([0.2, 0.3])
    assert nice_ticks(1, 1, 4) == []
    assert nice_ticks(float("nan"), 1, 4) == []
    assert log_ticks(-3, 2, 8) == [-3, -2, -1, 0, 1, 2]
    assert [round(10**tick, 3) for tick in log_ticks(0.05, 0.8, 4)] == [2, 5]
    figures = {0: "0", 1234.5: "1234", 12345: "12.35k", 3.4e9: "3.4G", 1e-5: "1e-5", 0.00025: "0.00025"}
    assert {value: y_label(value) for value in figures} == figures
    assert x_label("time", 3700) == "1h 01m"
    assert x_label("step", 250) == "250"
