"""Containers: what is refused before a job is handed over, and the exact commands that start them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from nexa.recipe.schema import Recipe
from nexa.worker.place import WorkerPlace
from nexa_slurm.allocation import Allocation
from nexa_slurm.containers import container_problems
from nexa_slurm.options import SlurmOptions
from nexa_slurm.tasks import node_argv, srun_argv

PLACE = WorkerPlace(run_dir=Path("/runs/r"), attempt=1)


def options(**container) -> SlurmOptions:
    """The section with a container."""
    return SlurmOptions.model_validate({"container": container})


def problems(section: SlurmOptions, **environment) -> list:
    """What is wrong with a recipe that has the section."""
    needed = {"method": "count", "model": {"name": "none"}, "data": {"remote_uri": "none"}}
    return container_problems(Recipe.model_validate({**needed, "environment": environment}), section)


def plan(**container) -> dict:
    """What of a plan the commands are made of."""
    section = options(**container).model_dump(mode="json")
    return {
        "recipe": {"cluster": {"cpus_per_node": None, "threads_per_process": None}, "slurm": section},
        "resources": {"processes_per_node": 1, "gpus_per_node": 1},
        "launch": {"python": "/outside/python", "processes_per_node": 1},
        "store": {"uri": "file:///store"},
    }


@pytest.mark.parametrize(
    "container",
    [
        {"image": "--bind=/etc:/x"},
        {"image": "/i.sif", "python": "-c"},
        {"image": "/i.sif", "mounts": ["data"]},
        {"image": "/i.sif", "mounts": ["/data,/etc"]},
        {"image": "/i.sif", "mounts": ["/data:/x:rwx"]},
        {"image": "/i.sif", "mounts": ["/data:x:ro:y"]},
        {"image": "/i.sif", "options": ["exec"]},
        {"image": "i", "runtime": "pyxis", "options": ["--nv"]},
        {"image": "i", "runtime": "docker"},
        {},
    ],
)
def test_what_no_runtime_would_understand_is_refused(container):
    with pytest.raises(ValidationError):
        options(**container)


def test_an_image_that_the_nodes_can_not_find_is_named(tmp_path):
    (tmp_path / "train.sif").touch()
    assert problems(options(image=str(tmp_path / "train.sif"))) == []
    assert problems(options(image="docker://ubuntu:24.04")) == []
    (problem,) = problems(options(image=str(tmp_path / "trian.sif")))
    assert "there is no image" in problem.message
    assert "train.sif" in problem.hint
    (problem,) = problems(options(image="train.sif"))
    assert "neither an absolute path nor a URI" in problem.message
    assert problems(SlurmOptions()) == []


def test_a_slurm_without_pyxis_says_so(cluster):
    if "--container-image" in cluster.command("srun", "--help"):
        pytest.skip("this Slurm has Pyxis")
    (problem,) = problems(options(image="ubuntu", runtime="pyxis"))
    assert "no Pyxis" in problem.message
    assert "runtime=apptainer" in problem.hint


def test_workers_are_in_one_place():
    (problem,) = problems(options(image="docker://ubuntu"), container="ubuntu")
    assert "both say where the workers run" in problem.message


def test_pyxis_gets_image_and_mounts_of_srun():
    allocation = Allocation(job_id="1", number=1, restarts=0, node_list="n1", num_nodes=1)
    argv = srun_argv(plan(runtime="pyxis", image="nvcr.io#a/b:1", mounts=["/data:/d:ro"]), PLACE, allocation)
    assert "--container-image=nvcr.io#a/b:1" in argv
    assert "--container-mounts=/runs/r:/runs/r,/store:/store,/data:/d:ro" in argv
    assert argv[argv.index("-m") - 1] == "python3"


def test_apptainer_is_started_by_each_node():
    words = node_argv(plan(image="/i.sif", mounts=["/data"]), PLACE, node=0, num_nodes=1, rendezvous="-")
    assert words[:9] == ["apptainer", "exec", "--nv", "--bind", "/runs/r", "--bind", "/store", "--bind", "/data"]
    assert words[9:11] == ["/i.sif", "python3"]
