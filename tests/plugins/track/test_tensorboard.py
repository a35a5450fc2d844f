"""The observer `tensorboard`: the contract, and what TensorBoard itself reads back."""

from __future__ import annotations

import math

import pytest

from nexa.testing.observer import RUN_ID, ObserverContract, sample_events

pytest.importorskip("tensorboard")


class TestTensorBoard(ObserverContract):
    plugin_name = "tensorboard"

    def read(self, run_dir):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(str(run_dir / "tensorboard"))
        accumulator.Reload()
        return accumulator

    def test_scalars_are_read_back(self, observer, run_dir):
        self.watch(observer, run_dir, sample_events())
        read = self.read(run_dir)
        losses = [(event.step, event.value) for event in read.Scalars("train/loss")]
        assert losses == [(step, pytest.approx(4.0 / step)) for step in range(1, 5)]
        assert [(event.step, event.value) for event in read.Scalars("eval/loss")] == [(4, 1.25)]
        assert math.isclose(read.Scalars("eval/perplexity")[0].value, 3.49, rel_tol=1e-6)
        assert "train/grad_norm" not in read.Tags()["scalars"]

    def test_recipe_and_samples_are_texts(self, observer, run_dir):
        self.watch(observer, run_dir, sample_events())
        read = self.read(run_dir)
        assert b'"max_steps": 4' in read.Tensors("recipe")[0].tensor_proto.string_val[0]
        assert RUN_ID.encode() in read.Tensors("recipe")[0].tensor_proto.string_val[0]
        assert "Blue" in read.Tensors("samples")[0].tensor_proto.string_val[0].decode()

    def test_resumed_steps_replace_those_before(self, host, observer, run_dir, monkeypatch):
        self.watch(observer, run_dir, sample_events(last_step=3))
        again = sample_events(first_step=3, last_step=4)
        for record in again:
            record["ts"] += 100
            if record["type"] == "metrics":
                record["values"] = {"loss": 9.0}
        # TensorBoard reads the files of a folder in name order, which starts with the time of creation.
        monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
        self.watch(host.create("observer", "tensorboard"), run_dir, again)
        losses = {event.step: event.value for event in self.read(run_dir).Scalars("train/loss")}
        assert losses == {1: 4.0, 2: 2.0, 3: 9.0, 4: 9.0}

    def test_log_dir_is_used(self, observer, run_dir, tmp_path):
        observer.open(RUN_ID, run_dir, {}, {"log_dir": str(tmp_path / "elsewhere")})
        observer.close()
        assert list((tmp_path / "elsewhere").glob("events.out.tfevents.*"))
        assert not (run_dir / "tensorboard").exists()
