"""Registers the observers `tensorboard` and `wandb`; imports neither library."""

from __future__ import annotations

from collections.abc import Iterable

from nexa.hookspecs import hookimpl
from nexa.specs import ObserverSpec


@hookimpl
def nexa_register_observers() -> Iterable[ObserverSpec]:
    """Return the observers `tensorboard` and `wandb`."""
    return [
        ObserverSpec(
            name="tensorboard",
            summary="Writes metrics and samples as TensorBoard event files into the run's folder",
            factory="nexa_track.tensorboard:TensorBoardObserver",
            options_model="nexa_track.options:TensorBoardOptions",
        ),
        ObserverSpec(
            name="wandb",
            summary="Sends metrics and samples to Weights & Biases, online or offline",
            factory="nexa_track.wandb:WandbObserver",
            options_model="nexa_track.options:WandbOptions",
        ),
    ]
