"""Prepared data is made once, survives kills, is found by content, and damage in it is found and named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexa.errors import DataError, UserError
from nexa.prepared import PreparedCache
from nexa.recipe.schema import Recipe
from nexa_torch.data import prepare as preparation
from nexa_torch.data.prepare import PreparedData, prepare_data

ROWS = [{"prompt": f"say {i}", "response": f"number {i} " * (1 + i % 9)} for i in range(1500)]
CHILD = """
import json, sys
from nexa.recipe.schema import Recipe
from nexa_torch.data import store
from nexa_torch.data.prepare import prepare_data

store.TokenWriter.__init__.__kwdefaults__["shard_tokens"] = 20_000
seen = []
def report(phase, done, total):
    seen.append([phase, done])
    print(phase, done, flush=True)
data = prepare_data(Recipe.model_validate(json.loads(sys.argv[1])), on_progress=report)
print("ready", json.dumps({"reused": data.reused, "rows": len(data.train), "first": seen[0:1]}), flush=True)
"""


READER = """
import json, sys
from pathlib import Path
from nexa.recipe.schema import Recipe
from nexa_torch.data.prepare import prepare_data
from nexa_torch.data.tokenizer import load_tokenizer

def private_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

recipe = Recipe.model_validate(json.loads(sys.argv[1]))
tokenizer = load_tokenizer(recipe.model)
before = private_bytes()
data = prepare_data(recipe, tokenizer=tokenizer)
assert data.reused
for start in range(0, len(data.train), 8):
    data.train.take(range(start, min(start + 8, len(data.train))))
print(private_bytes() - before)
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def recipe(cache: Path, write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> Recipe:
    return make_recipe(write_rows(ROWS), data={"local_cache_root": str(cache)})


def _with(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    document = recipe.document()
    for name, values in sections.items():
        document[name] = {**document[name], **values}
    return Recipe.from_document(document)


def _same_rows(one: PreparedData, other: PreparedData) -> bool:
    everything = range(len(one.train))
    return len(one.train) == len(other.train) and all(
        np.array_equal(getattr(one.train.take(everything), name), getattr(other.train.take(everything), name))
        for name in ("input_ids", "labels", "positions", "document")
    )


def _start(recipe: Recipe) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, json.dumps(recipe.document())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _first_file(cache: Path, pattern: str) -> Path:
    return sorted(PreparedCache(cache).list()[0].path.glob(pattern))[0]


def test_prepared_data_is_used_again(recipe: Recipe) -> None:
    first = prepare_data(recipe)
    again = prepare_data(recipe)
    assert (first.reused, again.reused) == (False, True)
    assert first.entries[0].path == again.entries[0].path
    assert _same_rows(first, again)
    assert (first.summary, first.warnings) == (again.summary, again.warnings)


def test_rows_of_another_length_need_no_new_encoding(recipe: Recipe) -> None:
    first = prepare_data(recipe)
    longer = prepare_data(_with(recipe, model={"max_seq_len": 256}))
    alone = prepare_data(_with(recipe, data={"packing": False}))
    seeded = prepare_data(_with(recipe, training={"seed": 7}))
    assert longer.reused
    assert alone.reused
    assert seeded.reused
    assert longer.entries[0].key == first.entries[0].key
    assert longer.row_length == 256
    assert len(alone.train) >= 1500 > len(longer.train)


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"train_on": "all"}},
        {"data": {"max_documents": 100}},
        {"data": {"format": "prompt_response"}},
        {"model": {"chat_template": "template.jinja"}},
    ],
    ids=str,
)
def test_what_changes_tokens_changes_the_key(recipe: Recipe, change: dict[str, Any], tmp_path: Path) -> None:
    first = prepare_data(recipe)
    template = tmp_path / "template.jinja"
    template.write_text(f"{first.tokenizer.chat_template}{{# another #}}")
    if "model" in change:
        change = {"model": {"chat_template": str(template)}}
    other = prepare_data(_with(recipe, **change))
    assert not other.reused
    assert other.entries[0].key != first.entries[0].key


def test_same_data_elsewhere_is_found_and_named_where_it_lies_now(
    recipe: Recipe, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    path = write_rows([*ROWS[:5], {"prompt": "x", "response": "y" * 300}])
    prepare_data(recipe)
    moved = path.rename(tmp_path / "moved.jsonl")
    data = prepare_data(_with(recipe, data={"remote_uri": str(moved)}))
    assert data.reused
    assert "moved.jsonl:6" in data.warnings[0]


def test_changed_data_is_noticed(recipe: Recipe, write_rows: Callable[..., Path]) -> None:
    first = prepare_data(recipe)
    path = write_rows([*ROWS[1:], ROWS[0]])
    second = prepare_data(recipe)
    assert not second.reused
    assert second.dataset_hash != first.dataset_hash
    assert any(f"{path} has changed since it was prepared" in warning for warning in second.warnings)
    assert not any("has changed" in warning for warning in prepare_data(recipe).warnings)


def test_data_that_changes_while_it_is_read_is_refused(recipe: Recipe, write_rows: Callable[..., Path]) -> None:
    def grow(phase: str, done: int, total: int | None) -> None:
        if phase == "tokenizing" and done:
            with Path(recipe.data.remote_uri).open("a") as stream:
                stream.write(json.dumps(ROWS[0]) + "\n")

    with pytest.raises(DataError, match=r"data\.jsonl: changed while it was read"):
        prepare_data(recipe, on_progress=grow)
    assert PreparedCache(Path(str(recipe.data.local_cache_root))).list() == []


@pytest.mark.parametrize("pattern", ["*.tokens.npy", "*.trained.npy", "*.ends.npy", "0*.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_is_found_and_named(recipe: Recipe, cache: Path, pattern: str, damage: str) -> None:
    prepare_data(recipe)
    key = PreparedCache(cache).list()[0].key
    victim = _first_file(cache, pattern)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    actions: dict[str, Callable[[], object]] = {
        "flip": lambda: victim.write_bytes(bytes(content)),
        "truncate": lambda: os.truncate(victim, len(content) - 1),
        "delete": victim.unlink,
    }
    actions[damage]()
    with pytest.raises(DataError, match=rf"(?s){victim.name}.*nexa data remove {key[:12]} --cache") as caught:
        prepare_data(recipe)
    assert caught.value.exit_code == 2
    prepared = PreparedCache(cache)
    prepared.remove(prepared.find(key[:12]))
    assert not prepare_data(recipe).reused


def test_damaged_rows_are_worked_out_again(recipe: Recipe, cache: Path) -> None:
    first = prepare_data(recipe)
    segments = next(iter(PreparedCache(cache).list()[0].path.glob("rows/*/segments.npy")))
    content = bytearray(segments.read_bytes())
    content[-20] ^= 1
    segments.write_bytes(bytes(content))
    assert _same_rows(prepare_data(recipe), first)


def test_killed_preparation_goes_on_where_it_stopped(recipe: Recipe, tmp_path: Path) -> None:
    child = _start(recipe)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("tokenizing") and int(line.split()[1]) >= 1024:
            break
    child.send_signal(signal.SIGKILL)
    child.communicate()
    building = next(iter(PreparedCache(Path(str(recipe.data.local_cache_root))).folder.glob(".building-*")))
    assert list(building.glob("*.json"))
    seen: list[tuple[str, int]] = []
    data = prepare_data(recipe, on_progress=lambda phase, done, total: seen.append((phase, done)))
    starts = [done for phase, done in seen if phase == "tokenizing"]
    assert starts[0] > 0
    whole = prepare_data(_with(recipe, data={"local_cache_root": str(tmp_path / "other")}))
    assert _same_rows(data, whole)


def test_processes_at_once_prepare_once(recipe: Recipe) -> None:
    children = [_start(recipe) for _ in range(3)]
    results = []
    for child in children:
        output, errors = child.communicate(timeout=240)
        assert child.returncode == 0, errors
        results.append(json.loads(output.splitlines()[-1].removeprefix("ready ")))
    assert sorted(result["reused"] for result in results) == [False, True, True]
    assert len({result["rows"] for result in results}) == 1


def test_waiting_may_be_stopped(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from nexa.locks import owned_lock

    class StoppedError(Exception):
        pass

    def stop(phase: str, done: int, total: int | None) -> None:
        if phase == "waiting":
            raise StoppedError

    monkeypatch.setattr(preparation, "content_key", lambda fields: "k" * 40)
    lock = PreparedCache(Path(str(recipe.data.local_cache_root))).folder / f".lock-{'k' * 40}"
    with owned_lock(lock), pytest.raises(StoppedError):
        prepare_data(recipe, on_progress=stop)


def test_folder_that_can_not_be_written_is_named(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"(?s)can't be written to .*file/cache.*data\.local_cache_root"):
        prepare_data(_with(recipe, data={"local_cache_root": str(tmp_path / "file" / "cache")}))


def test_unused_work_is_removed(cache: Path, recipe: Recipe) -> None:
    prepared = PreparedCache(cache)
    prepare_data(recipe)
    (prepared.folder / ".building-dead").mkdir()
    assert prepared.remove_litter() == 1
    assert len(prepared.list()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
def test_large_data_stays_out_of_memory(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> None:
    tokens = np.random.default_rng(0).integers(0, 256, size=(24_000, 1000), dtype=np.uint8)
    np.save(tmp_path / "rows.npy", tokens)
    recipe = make_recipe(
        tmp_path / "rows.npy",
        method="pretrain",
        model={"max_seq_len": 1000},
        data={"local_cache_root": str(tmp_path / "cache")},
    )
    assert prepare_data(recipe).train.token_count == 24_000_000
    command = [sys.executable, "-c", READER, json.dumps(recipe.document())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # The tokens take 48 MB on disk, all of which is read.
    assert int(done.stdout) < 20_000_000
