"""What verify-resume compares, and where it cuts."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

from nexa.errors import ArtifactError
from nexa.verification.compare import compare_checkpoints, compare_figures
from nexa.verification.cuts import SIGNALS, Moment, choose_cuts


def tensors(file: Path, **values: list[float]) -> None:
    """A safetensors file of fp64 vectors."""
    header, data = {}, b""
    for name, numbers in values.items():
        part = struct.pack(f"<{len(numbers)}d", *numbers)
        header[name] = {"dtype": "F64", "shape": [len(numbers)], "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_equal_checkpoints(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tensors(tmp_path / name / "model.safetensors", w=[1.0, 2.0], b=[3.0])
        (tmp_path / name / "manifest.json").write_text(name)
        (tmp_path / name / "times.json").write_text(name)
    assert compare_checkpoints(4, tmp_path / "a", tmp_path / "b") == (2, 24, None)


def test_the_first_tensor_that_differs_is_named(tmp_path: Path) -> None:
    tensors(tmp_path / "a" / "trainer" / "state.safetensors", a=[1.0], m=[1.0], v=[1.0])
    tensors(tmp_path / "b" / "trainer" / "state.safetensors", a=[1.0], m=[math.nextafter(1.0, 2.0)], v=[2.0])
    compared, _, difference = compare_checkpoints(4, tmp_path / "a", tmp_path / "b")
    assert compared == 1
    assert difference is not None
    assert (difference.step, difference.name) == (4, "trainer/state.safetensors:m")
    assert "sha256" in str(difference)


@pytest.mark.parametrize(
    ("other", "expected", "found"),
    [({"w": [1.0]}, "F64 [2]", "F64 [1]"), ({"x": [1.0, 2.0]}, "there", "not there")],
)
def test_shapes_and_names(tmp_path: Path, other: dict[str, list[float]], expected: str, found: str) -> None:
    tensors(tmp_path / "a" / "m.safetensors", w=[1.0, 2.0])
    tensors(tmp_path / "b" / "m.safetensors", **other)
    difference = compare_checkpoints(1, tmp_path / "a", tmp_path / "b")[2]
    assert difference is not None
    assert (difference.name, difference.expected, difference.found) == ("m.safetensors:w", expected, found)


def test_checkpoints_without_tensors_are_compared_by_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "counts.json").write_text(name)
    difference = compare_checkpoints(1, tmp_path / "a", tmp_path / "b")[2]
    assert difference is not None
    assert difference.name == "counts.json"


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ArtifactError, match=r"m\.safetensors"):
        compare_checkpoints(1, tmp_path / "a", tmp_path / "b")


def test_a_step_taken_twice_must_give_the_same_figures_twice() -> None:
    expected = {(1, "loss"): [4.0], (2, "loss"): [3.0], (2, "eval_loss"): [math.nan]}
    same = {(1, "loss"): [4.0], (2, "loss"): [3.0, 3.0], (2, "eval_loss"): [math.nan]}
    assert compare_figures(expected, same) == (4, None)
    compared, difference = compare_figures(expected, {**same, (2, "loss"): [3.5, 3.0]})
    assert difference is not None
    assert (compared, difference.step, difference.expected, difference.found) == (3, 2, "3.0", "3.5")
    missing = compare_figures(expected, {(1, "loss"): [4.0]})[1]
    assert missing is not None
    assert missing.found == "not recorded"


def test_cuts_fall_into_every_phase_behind_the_first_save() -> None:
    moments = [Moment(phase="training", step=step, seconds=0.1) for step in range(20)]
    moments += [Moment(phase=phase, step=step, seconds=0.2) for phase in ("evaluating", "saving") for step in (5, 10)]
    cuts = choose_cuts(moments, 4, seed=3, first_save=4)
    assert cuts == choose_cuts(moments, 4, seed=3, first_save=4)
    assert {cut.phase for cut in cuts} == {"training", "evaluating", "saving"}
    assert [cut.step for cut in cuts] == sorted(cut.step for cut in cuts)
    assert min(cut.step for cut in cuts) > 4
    assert {cut.signal for cut in cuts} == set(SIGNALS)
    assert all(0.0 <= cut.delay <= 0.2 for cut in cuts)
    assert choose_cuts(moments, 4, seed=4, first_save=4) != cuts
    assert choose_cuts([], 4, seed=0, first_save=1) == []
