"""The light, frozen records that plugins register: a name, a summary, and where the real thing is.

A spec never holds the plugin object itself, so that listing imports nothing heavy. Names select;
`factory` and `options_model` are imported only when their plugin is used. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class PluginSpec:
    """What every kind of plugin registers.

    name: lower-case, unique among plugins of its kind; also the recipe section of its options, where
        the kind has one.
    summary: one line, shown by `nexa plugins`.
    factory: "module:attribute", called without arguments; returns the plugin object.
    options_model: "module:attribute" of a pydantic model with `extra="forbid"` that validates the
        plugin's options; None when the plugin takes none.
    capabilities: what the plugin can do beyond its kind's mandatory part; contract tests for a
        capability run only where it is declared.
    """

    kind: ClassVar[str]
    own_section: ClassVar[bool] = True
    """Whether options stand in a recipe section called `name`, instead of where the recipe names the plugin."""

    name: str
    summary: str
    factory: str
    options_model: str | None = None
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Conformance:
    """What `nexa conformance` needs to know of a backend.

    overrides: recipe keys and values that the backend needs on top of the kit's recipe. differences: the
    names of checks that the backend is known to fail by design, each with the reason, in words.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    differences: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BackendSpec(PluginSpec):
    """A training backend.

    methods: the values of the recipe key `method` it can train.
    requirements: what its worker needs beside the standard library, as requirements such as "torch>=2.11";
        one on the plugin's own distribution ("nexa-hf[train]") or on Nexa's ("nexa-train[torch]") stands for
        what that distribution requires, since both are put on the worker's path, not installed there.
    requires_python: versions of Python its worker runs on, such as ">=3.10,<3.13".
    probes: modules that must be importable in the worker's environment, such as "torch".
    importer: "module:attribute" of a `nexa.recipe.imports.Importer`, which reads the trainer's own files as recipes.
    conformance: what `nexa conformance` needs to know of it.

    Capabilities: "chat", "estimate", "prepare", "resume" (continues from its checkpoints exactly), and
    "language-model" (trains transformers models on token rows, so that the kit's figures apply to it).
    """

    kind: ClassVar[str] = "backend"

    methods: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    requires_python: str = ">=3.10"
    probes: tuple[str, ...] = ()
    importer: str | None = None
    conformance: Conformance = field(default_factory=Conformance)


@dataclass(frozen=True, kw_only=True)
class TaskSpec(PluginSpec):
    """A task: what one method of a training backend trains, and on which batches.

    name: a value of the recipe key `method`. backend: the backend that trains it. factory,
    data_module: its classes, as that backend wants them. check: "module:attribute" of a function from a
    recipe to its problems, called on the launching machine, so its module imports nothing heavy.
    honours: recipe keys that this task heeds beyond those its backend heeds for every task, such as
    "model.d_model"; refuses: keys that its backend heeds for others and this task does not, such as
    "optimizer.*". A key ending in ".*" stands for a section.
    """

    kind: ClassVar[str] = "task"

    data_module: str
    backend: str = "torch"
    check: str | None = None
    honours: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SchedulerSpec(PluginSpec):
    """Something that starts workers on machines."""

    kind: ClassVar[str] = "scheduler"


@dataclass(frozen=True, kw_only=True)
class DistillerSpec(PluginSpec):
    """Something that captures a teacher's predictions as a distilled dataset."""

    kind: ClassVar[str] = "distiller"


@dataclass(frozen=True, kw_only=True)
class ArtifactStoreSpec(PluginSpec):
    """A place for immutable artifacts; `name` is the URI scheme it serves ("file", "s3")."""

    kind: ClassVar[str] = "artifact-store"


@dataclass(frozen=True, kw_only=True)
class ObserverSpec(PluginSpec):
    """A consumer of run events, such as an experiment tracker."""

    kind: ClassVar[str] = "observer"


@dataclass(frozen=True, kw_only=True)
class RewardSpec(PluginSpec):
    """Something that scores answers, by name in the recipe's `rollouts.rewards`, which also holds its options.

    factory is called with those options as keyword arguments.
    """

    kind: ClassVar[str] = "reward"
    own_section: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class RecipeFolder:
    """A folder of `*.yaml` recipes that a plugin ships."""

    path: Path
