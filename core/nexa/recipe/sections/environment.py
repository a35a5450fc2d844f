"""The recipe section `environment`: which interpreter and libraries the workers run with, or which container."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nexa.quantities import MEMORY
from nexa.recipe.sections.base import PATTERNS, Section

AUTO = "auto"
CURRENT = "current"

# Lengths are bounds of the fields: a bound inside a pattern costs tens of milliseconds on every start.
_LINE = r"^[^\x00-\x1f\x7f-\x9f]+$"
_MOUNT = r"^[/~][^\x00-\x1f\x7f-\x9f]*$"
_OPTION = r"^--?[A-Za-z][A-Za-z0-9-]*(=[^\x00-\x1f\x7f-\x9f]*)?$"
PATTERNS.update(
    {
        _MOUNT: "an absolute path, or one that starts with ~",
        _LINE: "text of one line, without control characters",
        _OPTION: "an option such as --name=value, without control characters",
    }
)

_Line = Annotated[str, Field(pattern=_LINE, max_length=4096)]
_Mount = Annotated[str, Field(pattern=_MOUNT, max_length=4096)]
_Option = Annotated[str, Field(pattern=_OPTION, max_length=1024)]


class EnvironmentSection(Section):
    """Interpreter and libraries of the workers; one without settings may be given by its name alone."""

    name: _Line = AUTO
    """auto: the current one where it has what the backend needs, else one that `nexa env create` made for it.
    current: the one that launches. Else a name of `nexa env list`, or the path of an environment or interpreter."""
    container: _Line | None = None
    """Image that the workers run in: a name that the runtime can fetch, or an Apptainer image file. Default: none."""
    runtime: Literal["auto", "docker", "podman", "apptainer"] = "auto"
    """What runs the container. auto: apptainer for an image file, else the first one on this machine."""
    python: _Line = "python3"
    """Interpreter inside the container."""
    mounts: list[_Mount] = []
    """Further folders seen inside the container, as SOURCE or SOURCE:TARGET, read-only unless :rw follows. The run's
    folder, a local artifact store and the files that the recipe names always are."""
    shm_size: str = Field(default="16G", pattern=MEMORY)
    """Shared memory of the container, such as "16G" (powers of 1024), through which data loaders and NCCL pass
    tensors."""
    options: list[_Option] = []
    """Further options of `docker run`, `podman run` or `apptainer exec`; not for secrets, since plans are printed."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether a person, or `auto` in a plan, chose another environment than the one that launches."""
        return self.container is not None or self.name not in (AUTO, CURRENT)

    @model_validator(mode="after")
    def _either_or(self) -> Self:
        if self.container is not None and self.name != AUTO:
            raise ValueError(f"a container brings its own environment; leave out container or name ({self.name!r})")
        return self
