"""The plan, with a plugin installed the way a third party's is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from nexa.errors import RecipeError
from nexa.launching import launch_plan
from nexa.plan import Plan, example_attempt, make_plan
from nexa.plugins import get_host
from nexa.preflight import local_folder, preflight
from nexa.recipe.load import load_recipe
from nexa.settings import get_settings

RECIPE = """\
method: sft
backend: planned
scheduler: paper
model:
  name: org/model
data:
  remote_uri: hf:org/rows
training:
  microbatch_size_per_gpu: 2
  global_batch_size: 64
  max_steps: 100
  save_every_steps: 30
cluster:
  num_nodes: 2
  gpus_per_node: 4
"""


@pytest.fixture
def folder(project: Path) -> Path:
    """A project whose recipe names the planned backend and scheduler."""
    (project / "recipe.yaml").write_text(RECIPE)
    return project


def plan(*overrides: str) -> Plan:
    return make_plan(load_recipe("recipe.yaml", overrides=overrides), host=get_host(), settings=get_settings())


def test_batch_maths_and_processes(folder: Path) -> None:
    made = plan()
    assert asdict(made.resources) == {"num_nodes": 2, "gpus_per_node": 4, "processes_per_node": 4}
    assert (made.batch.microbatch_size, made.batch.accumulation_steps, made.batch.world_size) == (2, 4, 8)
    assert made.worker.processes_per_node == 4


def test_a_cpu_run_has_one_process_unless_it_says_more(folder: Path) -> None:
    assert plan("cluster.gpus_per_node=0", "cluster.num_nodes=1").resources.world_size == 1
    assert plan("cluster.gpus_per_node=0", "cluster.processes_per_node=4").resources.world_size == 8


def test_planning_touches_nothing_and_repeats(folder: Path) -> None:
    before = sorted(folder.iterdir())
    assert plan() == plan()
    assert sorted(folder.iterdir()) == before


def test_the_document_is_what_workers_read(folder: Path) -> None:
    document = plan().document()
    code = document["launch"].pop("code")
    assert Path(code).parent.name == "code"
    assert not Path(code).exists()
    assert document["launch"] == {
        "python": "/opt/python",
        "factory": "nexa_planned:Planned",
        "processes_per_node": 4,
        "env": {"THREADS": "1"},
        "probes": (),
        "environment": {"kind": "backend", "name": "/opt/python"},
        "container": None,
    }
    assert document["store"] == {"factory": "nexa_file.store:FileStore", "uri": (folder / "artifacts").as_uri()}
    assert document["recipe"]["training"]["global_batch_size"] == 64
    assert document["batch"]["accumulation_steps"] == 4
    assert {line["path"] for line in document["settings"] if line["answer"] == "translated"} == {"training.seed"}


def test_submission_of_an_attempt(folder: Path) -> None:
    made = plan()
    attempt = example_attempt(made.runs_dir)
    assert made.submission(attempt).argv == ["paper", str(folder / "runs" / "RUN_ID"), "1", "8"]
    worker = made.worker_argv(attempt)
    assert worker[:3] == ["/opt/python", f"{made.worker.code}/nexa/worker/start.py", "torch.distributed.run"]
    assert "--rdzv-endpoint=FIRST_NODE:PORT" in worker


def test_the_store_is_the_recipe_s_or_the_setting_s(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXA_STORE_URI", str(folder / "site-store"))
    assert plan().store_uri == (folder / "site-store").as_uri()
    assert plan("artifacts.store_uri=own").store_uri == (folder / "own").as_uri()


def test_all_problems_at_once_each_with_its_place(folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        plan(
            "model.name=absent",
            "cluster.num_nodes=3",
            "training.precision=bf16",
            "samples.prompts=[Hello]",
            "training.grad_accumulation_steps=5",
            "data.remote_uri=nowhere.jsonl",
        )
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {
        "model.name",
        "cluster.num_nodes",
        "training.precision",
        "samples.prompts",
        "training.global_batch_size",
        "data.remote_uri",
    }
    batch = next(p for p in caught.value.problems if p.path == "training.global_batch_size")
    assert (batch.file, batch.line) == (str(folder / "recipe.yaml"), 10)
    assert "64" in batch.message


def test_unknown_store_scheme(folder: Path) -> None:
    with pytest.raises(RecipeError, match="nowhere"):
        plan("artifacts.store_uri=nowhere://bucket")


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ([], 4),
        (["checkpointing.keep_last=2"], 3),
        (["checkpointing.keep_last=9"], 4),
        (["training.save_every_steps=null"], 1),
    ],
)
def test_checkpoints_kept(folder: Path, overrides: list[str], kept: int) -> None:
    made = plan(*overrides, "meta.checkpoint_bytes=1000")
    assert made.checkpoints_kept == kept
    assert made.disk_bytes == kept * 1000


def test_preflight_refuses_a_run_that_does_not_fit(folder: Path) -> None:
    preflight(plan("meta.checkpoint_bytes=1000"))
    with pytest.raises(Exception, match="not enough disk") as caught:
        preflight(plan("meta.checkpoint_bytes=1000000000000000000"))
    assert "keep_last" in str(caught.value)
    assert not (folder / "runs").exists()


def test_preflight_refuses_a_file_as_run_folder(folder: Path) -> None:
    (folder / "runs").write_text("")
    with pytest.raises(Exception, match="not a folder"):
        preflight(plan())


def test_preflight_refuses_a_store_that_can_not_be_written(folder: Path) -> None:
    with pytest.raises(Exception, match=r"can't make the artifact store in /proc/store: /proc is read-only"):
        preflight(plan("artifacts.store_uri=/proc/store"))


def test_local_folder() -> None:
    assert local_folder("file:///a/with%20space") == Path("/a/with space")
    assert local_folder("s3://bucket/x") is None


def test_a_plan_for_other_machines_can_be_read_but_not_started(folder: Path) -> None:
    made = plan("cluster.num_nodes=4")
    assert [(problem.path, problem.line) for problem in made.obstacles] == [("cluster.num_nodes", None)]
    with pytest.raises(RecipeError):
        made.require_startable()
    with pytest.raises(RecipeError):
        launch_plan(made)
    assert not made.runs_dir.exists()


def test_each_process_needs_a_gpu_of_its_own(folder: Path) -> None:
    obstacles = plan("cluster.gpus_per_node=4", "cluster.processes_per_node=2").obstacles
    told = [problem for problem in obstacles if problem.path == "cluster.processes_per_node"]
    assert [problem.message for problem in told] == ["2 processes on 4 GPUs; each needs its own"]


def test_missing_data_is_told_once_with_its_place_and_neighbours(folder: Path) -> None:
    (folder / "train.jsonl").touch()
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("hf:org/rows", "trian.jsonl"))
    (problem,) = [problem for problem in plan().obstacles if problem.path == "data.remote_uri"]
    assert "trian.jsonl" in problem.message
    assert f"did you mean {folder / 'train.jsonl'}?" == problem.hint
    assert (Path(str(problem.file)).name, problem.line) == ("recipe.yaml", 7)
