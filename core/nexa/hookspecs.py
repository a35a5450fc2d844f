"""The hooks a plugin may implement: each returns light specs, never the plugin itself."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from nexa.specs import (
    ArtifactStoreSpec,
    BackendSpec,
    DistillerSpec,
    ObserverSpec,
    RecipeFolder,
    RewardSpec,
    SchedulerSpec,
    TaskSpec,
)

ENTRY_POINT_GROUP = "nexa"

hookspec = pluggy.HookspecMarker("nexa")
hookimpl = pluggy.HookimplMarker("nexa")


@hookspec
def nexa_register_backends() -> Iterable[BackendSpec]:
    """Return the training backends this plugin provides."""
    raise AssertionError("hook specifications are never called")


@hookspec
def nexa_register_tasks() -> Iterable[TaskSpec]:
    """Return the tasks this plugin provides, each named by the method that trains it."""
    raise AssertionError("hook specifications are never called")


@hookspec
def nexa_register_schedulers() -> Iterable[SchedulerSpec]:
    """Return the schedulers this plugin provides."""
    raise AssertionError("hook specifications are never called")


@hookspec
def nexa_register_distillers() -> Iterable[DistillerSpec]:
    """Return the distillers this plugin provides."""
    raise AssertionError("hook specifications are never called")


@hookspec
def nexa_register_artifact_stores() -> Iterable[ArtifactStoreSpec]:
    """Return the artifact stores this plugin provides, each named by the URI scheme it serves."""
    raise AssertionError("hook specifications are never called")


@hookspec
def nexa_register_observers() -> Iterable[ObserverSpec]:
    """Return the consumers of run events (experiment trackers) this plugin provides."""
    raise AssertionError("hook specifications are never called")


@hookspec
def nexa_register_rewards() -> Iterable[RewardSpec]:
    """Return the rewards of answers this plugin provides."""
    raise AssertionError("hook specifications are never called")


@hookspec
def nexa_register_recipe_folders() -> Iterable[RecipeFolder]:
    """Return the folders of recipes this plugin ships."""
    raise AssertionError("hook specifications are never called")
