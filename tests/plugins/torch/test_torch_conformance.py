"""The PyTorch engine trains what the conformance kit's reference trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nexa.conformance.report import Verdict, run_conformance
from nexa.plugins import get_host
from nexa.testing.conformance import ConformanceContract

pytest.importorskip("torch")


ONE_RUN = ("settings", "tokens", "masks", "loss", "grad-norm", "curve", "events", "artifacts", "weights")


class TestTorch(ConformanceContract):
    plugin_name = "torch"
    only = ONE_RUN


@pytest.mark.soak
class TestTorchWhole(ConformanceContract):
    plugin_name = "torch"


def verdicts(folder: Path, only: list[str], overrides: Mapping[str, Any]) -> dict[str, Verdict]:
    """Verdict by check of a backend that is made to do something else than it says."""
    report = run_conformance(get_host(), "torch", folder, only=only, overrides=overrides)
    return {result.name: result.verdict for result in report.results}


def test_wrong_masks_are_found(tmp_path: Path) -> None:
    assert verdicts(tmp_path, ["tokens", "masks"], {"data.train_on": "all"}) == {
        "tokens": Verdict.PASSED,
        "masks": Verdict.FAILED,
    }


@pytest.mark.soak
@pytest.mark.parametrize(
    ("overrides", "failed"),
    [
        ({"optimizer.lr": 0.0101}, {"lr", "curve"}),
        ({"optimizer.weight_decay": 0.0}, {"curve"}),
        ({"training.max_grad_norm": 1e9}, {"curve"}),
        ({"training.precision": "bf16"}, {"loss", "grad-norm", "curve"}),
    ],
)
def test_wrong_arithmetic_is_found(tmp_path: Path, overrides: dict[str, Any], failed: set[str]) -> None:
    found = verdicts(tmp_path, ["loss", "grad-norm", "lr", "curve"], overrides)
    assert {name for name, verdict in found.items() if verdict is Verdict.FAILED} == failed
