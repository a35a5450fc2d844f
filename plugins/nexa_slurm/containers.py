"""What can be seen on the launching machine of a container that would not start on the nodes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.errors import NexaError, Problem
from nexa.nearby import nearby
from nexa_slurm.commands import run_slurm
from nexa_slurm.options import ContainerOptions, SlurmOptions

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

# docker://, oras://, library://, instance:// and the like.
_URI = re.compile(r"^[a-z][a-z0-9+.-]*://")


def container_problems(recipe: Recipe, options: SlurmOptions) -> list[Problem]:
    """What is wrong with the recipe's container; nothing that only a node could tell."""
    if options.container is None:
        return []
    if recipe.environment.is_elsewhere:
        message = "environment and slurm.container both say where the workers run"
        hint = "leave one of them out; environment.container is understood by every scheduler, Pyxis by Slurm alone"
        return [Problem(message=message, path="slurm.container", hint=hint)]
    if options.container.runtime == "pyxis":
        return _pyxis_problems(options)
    return _image_problems(options.container, here=options.host is None)


def _pyxis_problems(options: SlurmOptions) -> list[Problem]:
    """Pyxis is part of a site's Slurm, and shows in the help of srun."""
    if options.host is not None or shutil.which("srun") is None:
        return []
    try:
        known = "--container-image" in run_slurm(["srun", "--help"])
    except NexaError:
        return []
    if known:
        return []
    return [
        Problem(
            message="this Slurm has no Pyxis: its srun knows no --container-image",
            path="slurm.container.runtime",
            hint="set slurm.container.runtime=apptainer, or ask the administrators for Pyxis",
        )
    ]


def _image_problems(container: ContainerOptions, *, here: bool) -> list[Problem]:
    """here: whether this machine sees the files that the nodes see."""
    image = container.image
    if _URI.match(image):
        return []
    path = "slurm.container.image"
    if not image.startswith("/"):
        message = f"{image} is no place that the nodes could find: neither an absolute path nor a URI"
        hint = f"such as {Path(image).absolute()} or docker://ubuntu:24.04"
        return [Problem(message=message, path=path, hint=hint)]
    if here and not Path(image).exists():
        return [Problem(message=f"there is no image {image}", path=path, hint=nearby(Path(image)))]
    return []
