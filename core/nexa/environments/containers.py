"""The container that a recipe asks for, worked out on the launching machine: runtime, mounts, options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.backend import ContainerSpec
from nexa.errors import Problem, UserError
from nexa.quantities import bytes_of
from nexa.recipe.paths import IMAGE_FILES
from nexa.uris import is_uri, local_folder
from nexa.worker.container import RUNTIMES

if TYPE_CHECKING:
    from nexa.backend import Resources
    from nexa.recipe.schema import Recipe


def container_spec(recipe: Recipe, resources: Resources, *, code: Path, store_uri: str) -> ContainerSpec:
    """The container of a recipe that names one; every folder stands at its own path inside."""
    section = recipe.environment
    assert section.container is not None
    mounts = {str(path): "ro" for path in (code, *_inputs(recipe))}
    if (store := local_folder(store_uri)) is not None:
        mounts[str(store)] = "rw"
    own = [f"{path}:{path}:{mode}" for path, mode in mounts.items()]
    return ContainerSpec(
        runtime=runtime_of(recipe),
        image=section.container,
        mounts=tuple(dict.fromkeys([*own, *map(_whole_mount, section.mounts)])),
        gpus=resources.gpus_per_node,
        shm_bytes=bytes_of(section.shm_size),
        options=tuple(section.options),
    )


def make_mounted_folders(container: ContainerSpec) -> None:
    """Make the folders that the container writes to, such as a new store's. Raises UserError."""
    for mount in container.mounts:
        source, _, mode = mount.rsplit(":", 2)
        if mode == "rw":
            try:
                Path(source).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{source} can't be made for the container: {error.strerror or error}") from error


def runtime_of(recipe: Recipe) -> str:
    """The runtime that a recipe names, or the one that suits; the first of all where none is here."""
    section = recipe.environment
    if section.runtime != "auto":
        return section.runtime
    if section.container is not None and section.container.endswith(IMAGE_FILES):
        return "apptainer"
    return next((name for name, runtime in RUNTIMES.items() if runtime.program()), next(iter(RUNTIMES)))


def runtime_problems(recipe: Recipe, *, here: bool) -> list[Problem]:
    """Why the recipe's container can't be started; here: whether this machine is the one that starts it."""
    section = recipe.environment
    if section.container is None or not here:
        return []
    runtime = RUNTIMES[runtime_of(recipe)]
    problems = []
    if runtime.program() is None:
        there = [name for name, other in RUNTIMES.items() if other.program()]
        named = section.runtime != "auto" or runtime.name == "apptainer"
        looked_for = runtime.name if named else ", ".join(RUNTIMES)
        problems.append(
            Problem(
                path="environment.runtime" if section.runtime != "auto" else "environment.container",
                message=f"this machine has no {looked_for} to run a container with",
                hint=f"it has {', '.join(there)}" if there else "install one, or use an environment: nexa env create",
            )
        )
    if section.container.endswith(IMAGE_FILES) and not Path(section.container).is_file():
        problems.append(Problem(path="environment.container", message=f"there is no image {section.container}"))
    missing = [mount for mount in section.mounts if not Path(mount.partition(":")[0]).expanduser().exists()]
    problems += [
        Problem(path="environment.mounts", message=f"there is no file or folder {mount.partition(':')[0]}")
        for mount in missing
    ]
    return problems


def _inputs(recipe: Recipe) -> Iterator[Path]:
    """Files and folders on this machine that the recipe names for reading."""
    named = (
        recipe.data.remote_uri,
        recipe.data.validation.remote_uri,
        recipe.model.chat_template,
        recipe.model.name,
        recipe.model.tokenizer,
    )
    for place in named:
        if place is not None and not is_uri(place) and place.startswith(("/", "~")):
            path = Path(place).expanduser()
            if path.exists():
                yield path.resolve()
                if path.resolve() != path:
                    yield path


def _whole_mount(mount: str) -> str:
    """SOURCE[:TARGET][:MODE] with nothing left out."""
    parts = mount.split(":")
    mode = parts.pop() if parts[-1] in ("ro", "rw") else "ro"
    source = str(Path(parts[0]).expanduser().absolute())
    target = parts[1] if len(parts) > 1 else source
    return f"{source}:{target}:{mode}"
