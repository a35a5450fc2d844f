"""Two processes, with copies of the model or with shards of it through accelerate's FSDP, train what one trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from hf_running import hashes, hf_recipe, hf_run, tiny_model
from preference_rows import ROLLOUTS, preference_recipe
from running import Finished, chat_rows

pytestmark = pytest.mark.soak
LORA = {"adapter": {"rank": 4}}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {"samples": {"prompts": ["Count to 2."], "max_new_tokens": 4}}),
    "sft, adapter": ("sft", LORA),
    "pretrain": ("pretrain", {}),
    "dpo": ("dpo", {}),
    "kto, adapter": ("kto", LORA),
    "orpo": ("orpo", {}),
    "reward": ("reward", {}),
    "grpo": ("grpo", {"rollouts": {**ROLLOUTS, "kl_beta": 0.05}}),
}
SHARDED = ("sft", "sft, adapter", "dpo", "reward", "grpo")
FSDP = {"distributed": {"strategy": "fsdp"}}
STEPS, SAVED = 4, 2
CLOSE = 5e-6
"""Largest relative difference of losses: sums of fp32 numbers in another order."""


@dataclass(frozen=True)
class Together:
    """What two processes found: by kind of run and how they ran, see two_ranks.py; and each run alone."""

    found: Mapping[str, Any]
    alone: Mapping[str, Finished]
    folder: Path

    def losses(self, name: str) -> dict[int, float]:
        """Loss by step."""
        return {int(step): loss for step, loss in self.found[name]["losses"].items()}


def checkpoint(folder: Path, step: int) -> Path:
    """A run's checkpoint of a step."""
    return folder / "store" / "checkpoints" / "run" / f"step-{step:08}"


def job(folder: Path, model: Path, kind: str, processes: int) -> dict[str, Any]:
    """One pass over the data in steps of four rows, in microbatches of two."""
    method, sections = KINDS[kind]
    if method in ("sft", "pretrain"):
        document = hf_recipe(chat_rows(folder, 16), model, method=method, data={"packing": False})
    else:
        document = preference_recipe(folder, method, rows=16)
        document["model"] = {"name": str(model), "max_seq_len": 96}
    training = {"microbatch_size_per_gpu": 2, "global_batch_size": 4, "max_steps": STEPS, "save_every_steps": SAVED}
    cluster = {"threads_per_process": 1, "processes_per_node": processes}
    return {**document, "training": {**training, "seed": 3}, "cluster": cluster, **sections}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """Every run by one process, then all of them by the same two."""
    folder = tmp_path_factory.mktemp("runs")
    model = tiny_model(folder / "model", chat_rows(tmp_path_factory.mktemp("rows"), 2))
    (folder / "data").mkdir()
    copies, shards, alone = {}, {}, {}
    for kind in KINDS:
        alone[kind] = hf_run(folder / kind / "alone", job(folder / "data", model, kind, 1)).attempt()
        recipe = job(folder / "data", model, kind, 2)
        copies[f"{kind}: ddp"] = {"folder": str(folder / kind / "ddp"), "recipe": recipe}
        if kind in SHARDED:
            at = folder / kind / "fsdp"
            again = {"folder": str(folder / kind / "again"), "from": str(checkpoint(at, SAVED))}
            shards[f"{kind}: fsdp"] = {"folder": str(at), "recipe": recipe | FSDP}
            shards[f"{kind}: fsdp again"] = {**again, "recipe": recipe | FSDP}
    copies["sft: from one"] = {
        "folder": str(folder / "sft" / "more"),
        "recipe": job(folder / "data", model, "sft", 2),
        "from": str(checkpoint(folder / "sft" / "alone", SAVED)),
    }
    # A process that has sharded once does so ever after.
    cases = {**copies, **shards}
    listed = folder / "cases.json"
    listed.write_text(json.dumps(cases), encoding="utf-8")
    script = Path(__file__).with_name("two_ranks.py")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, listed],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return Together(json.loads(done.stdout.splitlines()[-1]), alone, folder)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "grpo"])
def test_two_processes_train_as_one(together: Together, kind: str) -> None:
    """With copies of the model, losses are those of one process with twice the accumulation; KTO's divergence is the
    mean of the processes' where one process takes that of each microbatch."""
    same = together.losses(f"{kind}: ddp") == pytest.approx(together.alone[kind].series("loss"), rel=CLOSE)
    assert same is (kind != "kto, adapter")


@pytest.mark.parametrize("kind", [kind for kind in SHARDED if kind != "grpo"])
def test_shards_train_as_the_whole_model(together: Together, kind: str) -> None:
    """Losses, what the model writes, and the files of a checkpoint, though no process has the whole model."""
    one, shards = together.alone[kind], together.found[f"{kind}: fsdp"]
    assert together.losses(f"{kind}: fsdp") == pytest.approx(one.series("loss"), rel=CLOSE)
    assert shards["samples"] == [event["text"] for event in one.of("sample")]
    assert one.checkpoint is not None
    saved = set(shards["hashes"][one.checkpoint.name]) - {"trainer/rank-1.safetensors"}
    assert saved == set(hashes(one.checkpoint))


@pytest.mark.parametrize("kind", SHARDED)
def test_sharded_runs_continue_exactly(together: Together, kind: str) -> None:
    """From the middle, losses and every saved byte are those of the run that went through."""
    whole, rest = together.losses(f"{kind}: fsdp"), together.losses(f"{kind}: fsdp again")
    assert rest == {step: loss for step, loss in whole.items() if step > SAVED}
    last = f"step-{STEPS:08}"
    assert together.found[f"{kind}: fsdp again"]["hashes"][last] == together.found[f"{kind}: fsdp"]["hashes"][last]


def test_answers_are_drawn_by_each_process(together: Together) -> None:
    """With GRPO two processes draw other answers than one, and both learn from them."""
    assert set(together.losses("grpo: ddp")) == set(together.alone["grpo"].series("loss"))


def test_a_run_continues_on_more_and_on_fewer_processes(together: Together) -> None:
    """The same rows come in the same order, so that losses are those of a run that kept its processes."""
    straight = together.alone["sft"].series("loss")
    behind = {step: loss for step, loss in straight.items() if step > SAVED}
    assert together.losses("sft: from one") == pytest.approx(behind, rel=CLOSE)
    folder = together.folder
    run = hf_run(folder / "sft" / "fewer", job(folder / "data", folder / "model", "sft", 1))
    run.continue_from(checkpoint(folder / "sft" / "ddp", SAVED), attempt=2)
    assert run.attempt().series("loss") == pytest.approx(behind, rel=CLOSE)
