"""The recipe sections about what a run leaves: its name, checkpoints, samples, artifacts, observers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nexa.recipe.sections.base import NAME, NonNegativeInt, PositiveInt, Section

MAX_OBSERVERS = 32


class RunSection(Section):
    """Who this run is."""

    name: str | None = Field(default=None, pattern=NAME)
    """Short name, part of the run id. Default: the recipe's name."""


class CheckpointingSection(Section):
    """What happens to checkpoints."""

    keep_last: PositiveInt | None = None
    """Keep only the newest so many checkpoints of the run, and the best. Default: keep all."""
    keep_best: NonNegativeInt = 1
    """Best checkpoints that keep_last does not remove, by `monitor`, where they have that figure."""
    monitor: str = "eval_loss"
    """Figure that tells the best checkpoint, such as eval_loss; val_loss means the same."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether smaller or larger is better; auto is min for losses, errors and perplexity, else max."""
    save_optimizer: bool = True
    """Store optimizer, random-number and data state, so that the run can be resumed exactly."""
    async_save: bool = False
    """Go on training while a copy of the step is written and committed; the copy stays in memory until then."""


class SamplesSection(Section):
    """Text generated before, during and after training, so that a person sees the change."""

    prompts: list[str] = []
    """User turns (or text to continue, without a chat template)."""
    max_new_tokens: PositiveInt = 64
    """Longest answer, in tokens; greedy decoding."""


class ArtifactsSection(Section):
    """Where checkpoints go."""

    store_uri: str | None = None
    """Folder or URI of the artifact store. Default: the user setting `store_uri`."""
    labels: dict[str, str] = {}
    """Free labels recorded in every artifact's manifest."""


class TrackingSection(Section):
    """Who else hears of this run's events."""

    observers: Annotated[list[str], Field(max_length=MAX_OBSERVERS)] = []
    """Observer plugins, by name: tensorboard, wandb, …; their options are in sections of these names."""
