"""What this package offers to Nexa; imported to list plugins, so it imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

import nexa
from nexa.specs import (
    BackendSpec,
    Conformance,
    DistillerSpec,
    ObserverSpec,
    RecipeFolder,
    RewardSpec,
    SchedulerSpec,
    TaskSpec,
)
from nexa_echo.bytecounts import MODEL_NAME


@nexa.hookimpl
def nexa_register_backends() -> list[BackendSpec]:
    """Return the backend `echo`."""
    return [
        BackendSpec(
            name="echo",
            summary="Learns how frequent each byte is; needs nothing but Python",
            factory="nexa_echo.backend:EchoBackend",
            options_model="nexa_echo.options:EchoOptions",
            methods=("sft", "pretrain"),
            capabilities=frozenset({"chat", "estimate", "resume"}),
            conformance=Conformance(overrides={"model.name": MODEL_NAME}),
        )
    ]


@nexa.hookimpl
def nexa_register_tasks() -> list[TaskSpec]:
    """Return the task `parity` of the torch backend."""
    return [
        TaskSpec(
            name="parity",
            summary="Tells whether a byte has an even or odd number of bits set",
            factory="nexa_echo.parity:ParityTask",
            data_module="nexa_echo.parity:ParityData",
            options_model="nexa_echo.parity_options:ParityOptions",
            check="nexa_echo.parity_options:find_problems",
            honours=("data.validation.fraction",),
            refuses=("optimizer.scheduler.*",),
        )
    ]


@nexa.hookimpl
def nexa_register_schedulers() -> list[SchedulerSpec]:
    """Return the scheduler `echo-detached`."""
    return [
        SchedulerSpec(
            name="echo-detached",
            summary="Starts the supervisor as a detached process of this machine",
            factory="nexa_echo.scheduler:DetachedScheduler",
        )
    ]


@nexa.hookimpl
def nexa_register_distillers() -> list[DistillerSpec]:
    """Return the distiller `echo-counts`."""
    return [
        DistillerSpec(
            name="echo-counts",
            summary="Captures a byte model's prediction for every document",
            factory="nexa_echo.distiller:CountsDistiller",
        )
    ]


@nexa.hookimpl
def nexa_register_observers() -> list[ObserverSpec]:
    """Return the observer `echo-log`."""
    return [
        ObserverSpec(
            name="echo-log",
            summary="Writes one line of text per metric record into the run's folder",
            factory="nexa_echo.observer:LogObserver",
        )
    ]


@nexa.hookimpl
def nexa_register_rewards() -> list[RewardSpec]:
    """Return the reward `echo-words`."""
    return [
        RewardSpec(
            name="echo-words",
            summary="The share of the prompt's words that the answer repeats",
            factory="nexa_echo.reward:EchoReward",
            options_model="nexa_echo.options:EchoRewardOptions",
        )
    ]


@nexa.hookimpl
def nexa_register_recipe_folders() -> list[RecipeFolder]:
    """Return the folder with this package's recipes."""
    return [RecipeFolder(path=Path(__file__).parent / "recipes")]
