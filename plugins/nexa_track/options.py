"""Recipe sections of the trackers. None always means the tracker's own default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nexa.recipe.sections.base import Section

NonEmpty = Annotated[str, Field(min_length=1)]


class TensorBoardOptions(Section):
    """Section `tensorboard`."""

    log_dir: NonEmpty | None = None
    """Folder of the event files. Default: `tensorboard` in the run's folder."""


class WandbOptions(Section):
    """Section `wandb`."""

    project: NonEmpty | None = None
    """Project the run belongs to. Default: WANDB_PROJECT, or W&B's own default."""
    run: NonEmpty | None = None
    """Name shown for the run. Default: the Nexa run id."""
    entity: NonEmpty | None = None
    """User or team that owns the project. Default: WANDB_ENTITY, or the logged-in user."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """offline keeps everything in the run's folder for `wandb sync` to send later. Default: WANDB_MODE, or online."""
    tags: list[NonEmpty] = []
    """Tags shown in W&B."""


class TrackioOptions(Section):
    """Section `trackio`."""

    project: NonEmpty = "nexa"
    """Project the run belongs to."""
    run: NonEmpty | None = None
    """Name shown for the run. Default: the Nexa run id."""
    folder: NonEmpty | None = None
    """Folder of trackio's files, to be named to `trackio show` by TRACKIO_DIR. Default: trackio's own."""
    space: NonEmpty | None = None
    """Hugging Face Space ("user/name") to send to. Default: files on this machine alone."""
