"""Trains the regression task in this process, in a fraction of a second."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nexa.recipe.schema import Recipe
from nexa_torch import Callback, RegressionTask, SyntheticDataModule, TrainingEngine

SAMPLES = 40


def regression_document(**sections: Mapping[str, Any]) -> dict[str, Any]:
    """A linear-sized network on 40 rows, 30 of them trained on; `sections` are merged over it."""
    document: dict[str, Any] = {
        "method": "regression",
        "model": {"name": "mlp"},
        "data": {"remote_uri": "synthetic:regression", "validation": {"fraction": 0.25}},
        "training": {"max_steps": 6, "microbatch_size_per_gpu": 4},
        "optimizer": {"lr": 1e-2},
        "cluster": {"threads_per_process": 1},
        "regression": {"n_samples": SAMPLES, "n_features": 3, "hidden_sizes": [8]},
    }
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values}
    return document


def regression_engine(
    callbacks: Iterable[Callback] = (), *, task: type[RegressionTask] = RegressionTask, **sections: Mapping[str, Any]
) -> TrainingEngine:
    """An engine that is no part of a run."""
    recipe = Recipe.from_document(regression_document(**sections))
    module = SyntheticDataModule(recipe)
    return TrainingEngine(recipe, task(recipe, module), data_module=module, callbacks=callbacks)
