"""Registers the observers `tensorboard`, `wandb` and `trackio`; imports none of the libraries."""

from __future__ import annotations

from collections.abc import Iterable

from nexa.hookspecs import hookimpl
from nexa.specs import ObserverSpec


@hookimpl
def nexa_register_observers() -> Iterable[ObserverSpec]:
    """Return the observers `tensorboard`, `wandb` and `trackio`."""
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
        ObserverSpec(
            name="trackio",
            summary="Logs metrics and samples with trackio, into local files or a Hugging Face Space",
            factory="nexa_track.trackio:TrackioObserver",
            options_model="nexa_track.options:TrackioOptions",
        ),
    ]
