"""A step is the same whatever it is cut into, microbatches or packed rows; where TRL's is not, that is shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from hf_running import hf_recipe, hf_run, recorded, tiny_model
from preference_rows import ROLLOUTS, preference_recipe
from running import chat_rows


def same_as(expected: list[float]) -> Any:
    """Equal but for sums of fp32 numbers in another order; the loss of GRPO is a sum around zero."""
    return pytest.approx(expected, rel=2e-5, abs=1e-6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "base", chat_rows(tmp_path_factory.mktemp("rows"), 2))


def job(folder: Path, model: Path, method: str, **training: Any) -> dict[str, Any]:
    """One pass over twelve rows; pairs count twice for KTO."""
    if method in ("sft", "pretrain"):
        folder.mkdir(parents=True, exist_ok=True)
        document = hf_recipe(chat_rows(folder, 12), model, method=method, data={"packing": False})
    else:
        document = preference_recipe(folder, method, {"rollouts": ROLLOUTS} if method == "grpo" else {}, rows=12)
        document["model"] = {"name": str(model), "max_seq_len": 96}
    document["training"] = {"seed": 7, "epochs": 1.0, **training}
    return document


def figures(folder: Path, document: Mapping[str, Any]) -> list[float]:
    """Loss, gradient norm and rate of each step, one after the other."""
    return [value for step in recorded(hf_run(folder, document).attempt()).values() for value in step]


@pytest.mark.parametrize(
    ("method", "same"),
    [
        *((method, True) for method in ("pretrain", "sft", "dpo", "reward", "grpo")),
        # The cross-entropy of ORPO is the mean over a microbatch's tokens, however many another one has.
        ("orpo", False),
        # KTO estimates the divergence from a microbatch.
        ("kto", False),
    ],
)
def test_accumulation(tmp_path: Path, model: Path, method: str, same: bool) -> None:
    """Steps of eight rows in one microbatch, in two and in the most there can be; the last step has only four."""
    most = 4 if method == "kto" else 8
    found = [
        figures(
            tmp_path / f"{parts}",
            job(tmp_path, model, method, microbatch_size_per_gpu=8 // parts, grad_accumulation_steps=parts),
        )
        for parts in (1, 2, most)
    ]
    assert [found[0] == same_as(each) for each in found[1:]] == [same, same]


@pytest.mark.parametrize("method", ["sft", "pretrain"])
def test_packing(tmp_path: Path, model: Path, method: str) -> None:
    """A step over all documents, packed into rows and one a row."""
    found = []
    for packing in (True, False):
        document = job(tmp_path, model, method, microbatch_size_per_gpu=1, grad_accumulation_steps=12)
        document["data"]["packing"] = packing
        document["training"]["epochs"] = 2.0
        found.append(figures(tmp_path / f"{packing}", document))
    assert found[0] == same_as(found[1])
