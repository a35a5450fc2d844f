"""The recipe: all sections put together, and the plugins' own beside them.

Strict at every depth: an unknown key, a string for a number or a number for a string is an error.
Sections named after plugins are validated by the plugins' own models and kept in `plugin_options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from nexa.recipe.sections.base import Section
from nexa.recipe.sections.data import DataSection
from nexa.recipe.sections.distill import DistillSection
from nexa.recipe.sections.environment import EnvironmentSection
from nexa.recipe.sections.machines import ClusterSection, DistributedSection
from nexa.recipe.sections.model import AdapterSection, ModelSection
from nexa.recipe.sections.optimizer import OptimizerSection
from nexa.recipe.sections.outputs import (
    ArtifactsSection,
    CheckpointingSection,
    RunSection,
    SamplesSection,
    TrackingSection,
)
from nexa.recipe.sections.preference import PreferenceSection
from nexa.recipe.sections.rollouts import RolloutsSection
from nexa.recipe.sections.training import TrainingSection

_NAMED_SECTIONS = {"distributed": "strategy", "environment": "name"}


class Recipe(Section):
    """One training job, complete: what is trained, on what, how, where."""

    schema_version: Literal[1] = 1
    """Version of this schema."""
    extends: str | None = None
    """Recipe this one builds on: a path relative to this file, or a recipe's name."""
    description: str = ""
    """One line for `nexa recipe list`."""
    tags: list[str] = []
    """Words to find the recipe by."""
    method: str
    """What is done: pretrain, sft, dpo, kto, orpo, reward, grpo, or another method of the backend."""
    backend: str = "torch"
    """Trainer plugin."""
    scheduler: str = "local"
    """Scheduler plugin. Default: the user setting `scheduler`."""
    environment: EnvironmentSection = EnvironmentSection.defaults()
    run: RunSection = RunSection.defaults()
    model: ModelSection
    data: DataSection
    training: TrainingSection = TrainingSection.defaults()
    optimizer: OptimizerSection = OptimizerSection.defaults()
    adapter: AdapterSection | None = None
    """Train an adapter. Default: train all weights."""
    preference: PreferenceSection = PreferenceSection.defaults()
    rollouts: RolloutsSection = RolloutsSection.defaults()
    distill: DistillSection = DistillSection.defaults()
    checkpointing: CheckpointingSection = CheckpointingSection.defaults()
    samples: SamplesSection = SamplesSection.defaults()
    cluster: ClusterSection = ClusterSection.defaults()
    distributed: DistributedSection = DistributedSection.defaults()
    artifacts: ArtifactsSection = ArtifactsSection.defaults()
    tracking: TrackingSection = TrackingSection.defaults()
    meta: dict[str, Any] = {}
    """The user's own keys; recorded, never interpreted."""
    plugin_options: SkipJsonSchema[dict[str, dict[str, Any]]] = Field(default={}, exclude=True)
    """Validated sections of plugins, by plugin name; in YAML they stand at the top level."""

    @model_validator(mode="before")
    @classmethod
    def _sections_by_name(cls, data: Any) -> Any:
        """A strategy or an environment without settings may be given by its name alone."""
        if not isinstance(data, dict):
            return data
        named = {section: key for section, key in _NAMED_SECTIONS.items() if isinstance(data.get(section), str)}
        return {**data, **{section: {key: data[section]} for section, key in named.items()}}

    def lacks(self, path: str) -> bool:
        """Whether the leaf at a dotted key belongs to an optional section that this recipe does not have."""
        section: Any = self
        for name in path.split(".")[:-1]:
            section = getattr(section, name)
            if section is None:
                return True
        return False

    def document(self) -> dict[str, Any]:
        """The recipe as plain JSON values, plugin sections at the top level."""
        return {**self.model_dump(mode="json"), **self.plugin_options}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The recipe that `document` came from; keys that are no field of a recipe are plugin sections.

        For documents Nexa wrote itself: plugin sections are not validated again. Raises pydantic's
        ValidationError.
        """
        own = {key: value for key, value in document.items() if key in cls.model_fields}
        options = {key: value for key, value in document.items() if key not in cls.model_fields}
        return cls.model_validate({**own, "plugin_options": options})
