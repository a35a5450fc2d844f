"""Training engine in plain PyTorch: tasks, data modules, callbacks, and the loop that runs them.

The names below are imported when they are first used, so that `import nexa_torch` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "BaseDataModule": "data.module",
    "Callback": "callbacks.base",
    "CallbackContext": "callbacks.base",
    "ChatDataModule": "data.language",
    "CheckpointCallback": "callbacks.checkpoint",
    "Config": "config",
    "DeviceManager": "distributed.devices",
    "EarlyStopping": "callbacks.early_stopping",
    "EarlyStoppingCallback": "callbacks.early_stopping",
    "GradientSynchronizer": "distributed.synchronize",
    "GlobalSampler": "data.module",
    "LRSchedulerCallback": "callbacks.reporting",
    "LanguageDataModule": "data.language",
    "LanguageModelTask": "tasks.language_model",
    "LoggingCallback": "callbacks.reporting",
    "MetricsLogger": "callbacks.reporting",
    "ProfilerCallback": "callbacks.profiling",
    "ProgressCallback": "callbacks.reporting",
    "RegressionTask": "tasks.regression",
    "SampleCallback": "callbacks.samples",
    "SyntheticDataModule": "data.synthetic",
    "TensorBoardLogger": "callbacks.reporting",
    "TextDataModule": "data.language",
    "ThroughputCallback": "callbacks.profiling",
    "TokenizedDataModule": "data.language",
    "TrainOutput": "trainer",
    "Trainer": "trainer",
    "TrainingConfig": "training_config",
    "TrainingEngine": "engine.engine",
    "TrainingMode": "training_config",
    "TrainingTask": "tasks.base",
    "build_optimizer": "optimizers",
    "build_scheduler": "schedules",
    "get_pretraining_config": "presets",
    "get_qlora_config": "presets",
    "load_training_config": "training_config",
    "detect_environment": "distributed.environment",
    "make_loader": "data.module",
    "row_loader": "data.module",
}
"""Public name → module of this package that holds it."""

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
