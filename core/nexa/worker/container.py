"""The command that runs a node's workers inside a container: Docker, Podman or Apptainer. Standard library only.

Values of variables are never part of a command: the runtime takes each from the environment of its own
command, by name.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

# What reaches into the container beside the variables that Nexa and the launch set: devices, threads, clusters,
# proxies, hubs and trackers. PATH and the like belong to the image.
_PASSED = (
    "AWS_", "CUDA_", "GLOO_", "GROUP_", "HF_", "HUGGING", "KMP_", "LOCAL_", "MALLOC_", "MASTER_", "MKL_", "NCCL_",
    "NEXA_", "NO_COLOR", "NVIDIA_", "OMP_", "OPENBLAS_", "PMI", "PYTHONHASHSEED", "PYTHONNOUSERSITE", "PYTHONPATH",
    "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "PYTORCH_", "RANK", "ROLE_", "SLURM_", "TOKENIZERS_", "TORCH", "TRACKIO_",
    "TRANSFORMERS_", "TRITON_", "TZ", "UCX_", "WANDB_", "WORLD_SIZE", "http_proxy", "https_proxy", "no_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
_HOME = "/tmp"
FAILED_TO_START = {
    125: "refused the command",
    126: "can't run the image's Python",
    127: "found no such Python in the image",
}
"""What exit codes of `docker run` and `podman run` mean, where the workers were never started."""


class Runtime(ABC):
    """One program that runs containers."""

    name: ClassVar[str]
    programs: ClassVar[Sequence[str]]

    def program(self) -> str | None:
        """Where the program is on this machine; None where it is not."""
        return next((found for name in self.programs if (found := shutil.which(name))), None)

    def command(
        self,
        container: Mapping[str, Any],
        worker: Sequence[str],
        *,
        run_dir: Path,
        name: str,
        variables: Sequence[str],
        several_nodes: bool,
    ) -> list[str]:
        """The words that run `worker` in the container; variables: names of those that it gets."""
        mounts = [f"{run_dir}:{run_dir}:rw", *container.get("mounts", ())]
        return [
            self.programs[0],
            *self._start(container, name=name, several_nodes=several_nodes),
            *(word for mount in mounts for word in self._mount(*mount.rsplit(":", 2))),
            *self._pass(variables),
            *container.get("options", ()),
            container["image"],
            *worker,
        ]

    def environment(self, variables: Mapping[str, str], passed: Sequence[str]) -> dict[str, str]:
        """The variables of the runtime's own command, from which it takes those of the container."""
        return dict(variables)

    @abstractmethod
    def _start(self, container: Mapping[str, Any], *, name: str, several_nodes: bool) -> Iterator[str]: ...

    @abstractmethod
    def _mount(self, source: str, target: str, mode: str) -> Sequence[str]: ...

    @abstractmethod
    def _pass(self, variables: Sequence[str]) -> Sequence[str]: ...


class Docker(Runtime):
    """https://docs.docker.com/reference/cli/docker/container/run/"""

    name = "docker"
    programs = ("docker",)

    def _start(self, container: Mapping[str, Any], *, name: str, several_nodes: bool) -> Iterator[str]:
        yield from ("run", "--rm", "--init", f"--name={name}", "--entrypoint=", f"--workdir={_HOME}")
        yield from self._user()
        # A home that everyone can write to, whoever the user is inside.
        yield from (f"--env=HOME={_HOME}", "--cap-drop=ALL", "--security-opt=no-new-privileges")
        if container.get("shm_bytes"):
            yield f"--shm-size={container['shm_bytes']}"
        if container.get("gpus"):
            yield from self._gpus()
        if several_nodes:
            # The nodes' workers meet at each other's own addresses.
            yield "--network=host"

    def _user(self) -> Sequence[str]:
        """Files in the run's folder belong to who launched it."""
        return [f"--user={os.getuid()}:{os.getgid()}"]

    def _gpus(self) -> Sequence[str]:
        return ["--gpus=all"]

    def _mount(self, source: str, target: str, mode: str) -> Sequence[str]:
        # Unlike -v, --mount does not make a missing folder, which would then belong to root.
        fields = ("type=bind", f"source={source}", f"target={target}", *(("readonly",) if mode == "ro" else ()))
        # The option's value is a line of CSV.
        return ["--mount=" + ",".join(f'"{field}"' if "," in field else field for field in fields)]

    def _pass(self, variables: Sequence[str]) -> Sequence[str]:
        return [f"--env={name}" for name in variables]


class Podman(Docker):
    """https://docs.podman.io/en/latest/markdown/podman-run.1.html"""

    name = "podman"
    programs = ("podman",)

    def _user(self) -> Sequence[str]:
        # SELinux would keep the container from folders of the host, which must not be relabelled for it.
        mapping = [] if os.getuid() == 0 else ["--userns=keep-id"]
        return [*mapping, *super()._user(), "--security-opt=label=disable"]

    def _gpus(self) -> Sequence[str]:
        return ["--device=nvidia.com/gpu=all"]


class Apptainer(Runtime):
    """https://apptainer.org/docs/user/latest/cli/apptainer_exec.html; the user is the one outside."""

    name = "apptainer"
    programs = ("apptainer", "singularity")

    def _start(self, container: Mapping[str, Any], *, name: str, several_nodes: bool) -> Iterator[str]:
        # Memory, network and /dev/shm are those of the machine; nothing of it is seen but what is bound.
        yield from ("exec", "--cleanenv", "--contain", "--no-home", "--no-privs", f"--pwd={_HOME}")
        if container.get("gpus"):
            yield "--nv"

    def _mount(self, source: str, target: str, mode: str) -> Sequence[str]:
        return [f"--bind={source}:{target}:{mode}"]

    def _pass(self, variables: Sequence[str]) -> Sequence[str]:
        return []

    def environment(self, variables: Mapping[str, str], passed: Sequence[str]) -> dict[str, str]:
        """With --cleanenv exactly the variables named APPTAINERENV_… come in."""
        return {**variables, **{f"APPTAINERENV_{name}": variables[name] for name in passed}}


RUNTIMES: Mapping[str, Runtime] = {runtime.name: runtime for runtime in (Podman(), Docker(), Apptainer())}
"""By name, in the order in which one is looked for."""


def contained(
    launch: Mapping[str, Any],
    worker: Sequence[str],
    variables: Mapping[str, str],
    run_dir: Path,
    attempt: int,
    *,
    node: int = 0,
    several_nodes: bool = False,
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a node's workers, put into the launch's container where it has one.

    launch: the fields of a LaunchSpec. worker, variables: the workers' own command and environment.
    """
    container = launch.get("container")
    if not container:
        return list(worker), dict(variables)
    runtime = RUNTIMES[container["runtime"]]
    passed = sorted({name for name in variables if name.startswith(_PASSED)} | set(launch.get("env", {})))
    argv = runtime.command(
        container,
        worker,
        run_dir=run_dir,
        name=container_name(run_dir, attempt, node),
        variables=passed,
        several_nodes=several_nodes,
    )
    return argv, runtime.environment(variables, passed)


def container_name(run_dir: Path, attempt: int, node: int = 0) -> str:
    """The container's name, by which `docker ps` shows which run it belongs to."""
    return f"nexa-{run_dir.name}-{attempt}-{node}"
