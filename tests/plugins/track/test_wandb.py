"""The observer `wandb`: the contract, and the records that `wandb sync` would send."""

from __future__ import annotations

import json
import struct

import pytest

from nexa.testing.observer import RUN_ID, ObserverContract, sample_events

pytest.importorskip("wandb")

_BLOCK_BYTES = 32768
_FILE_HEADER_BYTES = 7
_RECORD_HEADER_BYTES = 7
_FULL = 1


def read_records(path):
    """The protobuf records of a small offline run file (LevelDB log format, one block)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    assert len(data) < _BLOCK_BYTES
    position = _FILE_HEADER_BYTES
    while position < len(data):
        _, size, kind = struct.unpack_from("<IHB", data, position)
        assert kind == _FULL
        position += _RECORD_HEADER_BYTES
        record = Record()
        record.ParseFromString(data[position : position + size])
        position += size
        yield record


@pytest.mark.timeout(120)
class TestWandb(ObserverContract):
    plugin_name = "wandb"
    options = {"mode": "offline", "project": "nexa-tests", "run": "a name", "tags": ["contract"]}

    @pytest.fixture(autouse=True)
    def _own_folders(self, tmp_path, monkeypatch):
        """Nothing of the person who runs the tests is read or written."""
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            monkeypatch.setenv(name, str(tmp_path / name.lower()))
        monkeypatch.delenv("WANDB_MODE", raising=False)

    def test_records_are_read_back(self, observer, run_dir):
        self.watch(observer, run_dir, sample_events())
        (path,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
        records = list(read_records(path))
        run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        assert (run.run_id, run.display_name, run.project) == (RUN_ID, "a name", "nexa-tests")
        assert list(run.tags) == ["contract"]
        rows = [
            {(item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
            for record in records
            if record.WhichOneof("record_type") == "history"
        ]
        losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
        assert losses == {step: 4.0 / step for step in range(1, 5)}
        assert [row["eval/loss"] for row in rows if "eval/loss" in row] == [1.25]
        assert any("samples" in key for row in rows for key in row)
        (end,) = [record.exit for record in records if record.WhichOneof("record_type") == "exit"]
        assert end.exit_code == 0

    def test_a_failed_run_is_marked_failed(self, observer, run_dir):
        self.watch(observer, run_dir, [{"ts": 1.0, "type": "end", "state": "failed", "step": 0, "message": "x"}])
        (path,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
        (end,) = [record.exit for record in read_records(path) if record.WhichOneof("record_type") == "exit"]
        assert end.exit_code == 1
