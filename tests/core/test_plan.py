"""The plan, with a plugin installed the way a third party's is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from nexa.discovery import installed_providers
from nexa.errors import RecipeError
from nexa.plan import Plan, example_attempt, make_plan
from nexa.plugins import PluginHost
from nexa.preflight import local_folder, preflight
from nexa.recipe.load import load_recipe
from nexa.settings import get_settings

PLUGIN = """
from nexa.backend import Answer, Backend, Estimate, LaunchSpec, SettingAnswer, leaf_paths
from nexa.errors import Problem
from nexa.hookspecs import hookimpl
from nexa.recipe.schema import Recipe
from nexa.scheduler import Scheduler, Submission
from nexa.specs import ArtifactStoreSpec, BackendSpec, ObserverSpec, SchedulerSpec

REFUSED = {"training.precision", "samples.prompts"}


class Planned(Backend):
    def check(self, recipe):
        missing = recipe.model.name == "absent"
        return [Problem(path="model.name", message="there is no model 'absent'")] if missing else []

    def settings(self, recipe):
        for path in leaf_paths(Recipe.model_json_schema()):
            refused = path in REFUSED
            detail = "seeds everything" if path == "training.seed" else "fp32 only" if refused else ""
            answer = Answer.REFUSED if refused else Answer.TRANSLATED if detail else Answer.HONOURED
            yield SettingAnswer(path=path, answer=answer, detail=detail)

    def plan(self, recipe, resources):
        return LaunchSpec(
            python="/opt/python",
            factory="nexa_planned:Planned",
            processes_per_node=resources.processes_per_node,
            env={"THREADS": "1"},
        )

    def estimate(self, recipe, resources):
        size = recipe.meta.get("checkpoint_bytes")
        return Estimate(parameters=7_500_000_000, checkpoint_bytes=size, total_steps=recipe.training.max_steps)

    def preview(self, recipe):
        raise AssertionError("planning loads no data")

    def run(self, context):
        raise AssertionError("planning trains nothing")


class Paper(Scheduler):
    def check(self, recipe, resources):
        many = resources.num_nodes > 2
        return [Problem(path="cluster.num_nodes", message=f"{resources.num_nodes} nodes, 2 exist")] if many else []

    def plan(self, recipe, attempt, launch, resources):
        return Submission(argv=["paper", str(attempt.run_dir), str(attempt.number), str(resources.world_size)])

    def submit(self, attempt, submission):
        raise AssertionError("planning submits nothing")

    def status(self, jobs):
        return []

    def cancel(self, job, *, force):
        pass

    def resources(self):
        return []


@hookimpl
def nexa_register_backends():
    return [BackendSpec(name="planned", summary="-", factory="nexa_planned:Planned", methods=("sft", "pretrain"))]


@hookimpl
def nexa_register_schedulers():
    return [SchedulerSpec(name="paper", summary="-", factory="nexa_planned:Paper")]
"""

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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    information = site / "nexa_planned-2.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-planned\nVersion: 2.0\n")
    (information / "entry_points.txt").write_text("[nexa]\nplanned = nexa_planned\n")
    (site / "nexa_planned.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr("nexa.recipe.validate.get_host", lambda: host())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def host() -> PluginHost:
    return PluginHost(installed_providers())


def plan(*overrides: str) -> Plan:
    return make_plan(load_recipe("recipe.yaml", overrides=overrides), host=host(), settings=get_settings())


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
    assert document["launch"] == {
        "python": "/opt/python",
        "factory": "nexa_planned:Planned",
        "processes_per_node": 4,
        "env": {"THREADS": "1"},
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
    assert worker[:3] == ["/opt/python", "-m", "torch.distributed.run"]
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
        )
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {
        "model.name",
        "cluster.num_nodes",
        "training.precision",
        "samples.prompts",
        "training.global_batch_size",
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


def test_local_folder() -> None:
    assert local_folder("file:///a/with%20space") == Path("/a/with space")
    assert local_folder("s3://bucket/x") is None
