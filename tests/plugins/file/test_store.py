"""What a file store does with whole, damaged, pinned and related artifacts."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path

import pytest

from nexa.artifacts import MANIFEST_NAME
from nexa.errors import ArtifactError, ArtifactExistsError, UserError
from nexa.manifest import parse_manifest, render_manifest

from .conftest import FILES, contents, open_store

STEP = "checkpoints/run-1/step-{:08d}"
FIRST = STEP.format(1)


def commit(store, staged, name=FIRST, **kwargs):
    kwargs.setdefault("kind", "checkpoint")
    kwargs.setdefault("manifest", {})
    return store.commit(staged, name, **kwargs)


def test_commit_keeps_every_byte_and_describes_it(store, stage, scratch):
    staged = stage()
    meta = commit(
        store,
        staged,
        manifest={"metrics": {"loss": 1.5, "perplexity": float("inf")}, "lineage": {"dataset": {"hash": "x"}}},
        inputs=["sha256:abc"],
        labels={"step": "1"},
    )
    folder = store.fetch(FIRST)
    document = store.manifest(FIRST)

    assert not staged.exists()
    assert {path: data for path, data in contents(folder).items() if path != MANIFEST_NAME} == FILES
    assert meta.uri == folder.as_uri()
    assert meta.bytes == sum(map(len, FILES.values()))
    assert meta.inputs == ("sha256:abc",)
    assert document["hash"] == meta.hash
    assert document["metrics"] == {"loss": 1.5, "perplexity": None}
    assert [artifact.meta for artifact in store.list()] == [meta]
    assert store.verify(FIRST) == []


def test_committed_files_are_read_only(store, stage):
    commit(store, stage())
    for path in store.fetch(FIRST).rglob("*"):
        if path.is_file():
            assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_hash_depends_on_names_and_bytes_alone(store, stage, tmp_path):
    reordered = dict(reversed(FILES.items()))
    first = commit(store, stage())
    other_place = stage(reordered, into=tmp_path)
    for path in other_place.rglob("*"):
        os.utime(path, (1, 1))
    second = commit(store, other_place, "elsewhere/x", kind="dataset", manifest={"config": {"a": 1}})
    changed = commit(store, stage({**FILES, "tokenizer.json": b"[]"}), "elsewhere/y")
    renamed = commit(store, stage({**FILES, "b": b""}), "elsewhere/z")

    assert first.hash == second.hash
    assert len({first.hash, changed.hash, renamed.hash}) == 3


def test_commit_from_another_file_system_copies(store, stage, tmp_path):
    staged = stage(into=tmp_path)
    if staged.stat().st_dev == store._root.parent.stat().st_dev:
        pytest.skip("one file system only")
    commit(store, staged)
    assert not staged.exists()
    assert store.verify(FIRST) == []


def test_file_with_a_second_name_is_copied(store, stage, scratch):
    staged = stage()
    outside = scratch / "outside"
    os.link(staged / "config.json", outside)
    commit(store, staged)
    outside.write_bytes(b"changed later")
    assert store.verify(FIRST) == []


def test_existing_name_is_refused_and_the_staged_files_stay(store, stage):
    commit(store, stage())
    staged = stage({"other": b"x"})
    with pytest.raises(ArtifactExistsError, match="exists already"):
        commit(store, staged)
    with pytest.raises(ArtifactExistsError, match="folder of artifacts"):
        commit(store, staged, "checkpoints/run-1")
    with pytest.raises(ArtifactError, match="inside the artifact"):
        commit(store, staged, FIRST + "/sub")
    with pytest.raises(ArtifactError, match="only in case"):
        commit(store, staged, "Checkpoints/run-1/step-00000002")
    assert contents(staged) == {"other": b"x"}
    assert staged.stat().st_mode & stat.S_IWUSR
    assert [artifact.name for artifact in store.list()] == [FIRST]


def test_damaged_artifact_gives_up_its_name_but_not_its_files(store, stage):
    commit(store, stage())
    damaged = store.fetch(FIRST)
    (damaged / "tokenizer.json").unlink()
    commit(store, stage())
    assert store.verify(FIRST) == []
    (aside,) = (store._root / ".nexa" / "set-aside").iterdir()
    assert (aside / "config.json").read_bytes() == FILES["config.json"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "link").symlink_to("/etc/passwd"), "link is a symbolic link"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe is a named pipe"),
        (lambda folder: (folder / MANIFEST_NAME).write_text("{}"), "manifest.json is a name that the store writes"),
        (lambda folder: (folder / "Config.json").write_text("{}"), "only in case"),
        (lambda folder: (folder / "a\x1b[2Jb").write_text(""), "can't be shown"),
        (lambda folder: (folder / os.fsdecode(b"\xff")).write_text(""), "can't be shown"),
    ],
)
def test_unfit_files_are_refused(store, stage, spoil, message):
    staged = stage()
    spoil(staged)
    before = sorted(staged.rglob("*"))
    with pytest.raises(ArtifactError, match=message):
        commit(store, staged)
    assert sorted(staged.rglob("*")) == before
    assert not store._root.exists()


def test_empty_and_missing_folders_are_refused(store, stage, scratch):
    with pytest.raises(ArtifactError, match="holds no file"):
        commit(store, stage({}))
    with pytest.raises(ArtifactError, match="there is no folder"):
        commit(store, scratch / "missing")
    (scratch / "link").symlink_to(stage())
    with pytest.raises(ArtifactError, match="is not a folder"):
        commit(store, scratch / "link")


def test_manifest_fields_that_are_reserved_or_not_json_are_refused(store, stage):
    staged = stage()
    with pytest.raises(ArtifactError, match="writes itself: hash"):
        commit(store, staged, manifest={"hash": "mine"})
    with pytest.raises(ArtifactError, match="not plain JSON"):
        commit(store, staged, manifest={"config": object()})
    assert contents(staged) == FILES


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/../b", "a//b", "/etc/x", "a/", ".hidden", "a/.nexa", ".nexa/pins", "a\0b", "a\\b",
        "%2e%2e/x", "a b", "a\nb", "é", "a/manifest.json", "C:x", "~root", "a.", "x" * 300, "a/" * 130 + "b", "-rf",
        "$(id)", "a;b", "\u202ea", "a/..", "....//x", "a:b",
    ],
)  # fmt: skip
def test_hostile_names_touch_nothing(store, stage, scratch, name):
    commit(store, stage())
    staged = stage()
    before = contents(scratch)
    for use in (
        lambda: commit(store, staged, name),
        lambda: store.manifest(name),
        lambda: store.verify(name),
        lambda: store.fetch(name),
        lambda: store.pin(name),
        lambda: store.collect([name]),
    ):
        with pytest.raises(UserError) as caught:
            use()
        assert caught.value.exit_code == 2
        assert "\n" not in caught.value.message
    assert contents(scratch) == before


def test_links_on_the_way_are_not_followed(store, stage, scratch):
    outside = scratch / "outside"
    commit(open_store(outside), stage(), "run/step")
    commit(store, stage())
    (store._root / "linked").symlink_to(outside)
    (store._root / "checkpoints" / "run-2").symlink_to(outside / "run")
    before = contents(outside)

    for use in (
        lambda: commit(store, stage(), "linked/new"),
        lambda: store.fetch("linked/run/step"),
        lambda: store.verify("checkpoints/run-2/step"),
        lambda: store.list("linked"),
        lambda: store.collect(["checkpoints/run-2/step"]),
    ):
        with pytest.raises(ArtifactError, match="symbolic link"):
            use()
    assert [artifact.name for artifact in store.list()] == [FIRST]
    assert contents(outside) == before


@pytest.mark.parametrize("uri", ["", "s3://bucket/x", "file://host/x", "file:relative", "file:///a?b", "file:///a%00b"])
def test_foreign_uris_are_refused(store, uri):
    with pytest.raises(UserError):
        store.open(uri)


def test_staged_folder_may_lie_beside_artifacts_but_not_in_one(store, stage):
    commit(store, stage())
    runs = store._root / "runs"
    runs.mkdir()
    commit(store, stage(into=runs), STEP.format(2))
    assert store.verify(STEP.format(2)) == []
    for taken in (store.fetch(FIRST) / "trainer", store._root, store._root.parent, store._root / ".nexa"):
        with pytest.raises(UserError, match="overlaps"):
            commit(store, taken, "copy")
    with pytest.raises(ArtifactError, match="is a name that the store"):
        commit(store, store.fetch(FIRST), "copy")
    assert store.verify(FIRST) == []


def test_a_thousand_bit_flips_are_all_found(store, stage):
    generator = random.Random(7)
    commit(store, stage())
    folder = store.fetch(FIRST)
    sizes = {path: len(data) for path, data in contents(folder).items() if data}
    for _ in range(1000):
        path = generator.choice(list(sizes))
        offset, bit = generator.randrange(sizes[path]), 1 << generator.randrange(8)
        flip(folder / path, offset, bit)
        assert [damage.file for damage in store.verify(FIRST)] == [path]
        flip(folder / path, offset, bit)
    assert store.verify(FIRST) == []


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ bit]))


DAMAGES = [
    (lambda f: os.truncate(f / "config.json", 3), {"config.json"}),
    (lambda f: (f / "config.json").write_bytes(b""), {"config.json"}),
    (lambda f: (f / "config.json").unlink(), {"config.json"}),
    (lambda f: (f / "extra").write_text(""), {"extra"}),
    (lambda f: (f / "extra").mkdir(), {"extra/"}),
    (lambda f: (f / "config.json").rename(f / "renamed"), {"config.json", "renamed"}),
    (lambda f: replace(f / "config.json", lambda p: p.symlink_to("tokenizer.json")), {"config.json"}),
    (lambda f: replace(f / "config.json", os.mkfifo), {"config.json"}),
    (lambda f: replace(f / "config.json", Path.mkdir), {"config.json", "config.json/"}),
    (lambda f: (f / "pipe\x1b[31m").write_text(""), {"pipe\\x1b[31m"}),
    (lambda f: (f / MANIFEST_NAME).unlink(), {MANIFEST_NAME}),
    (lambda f: (f / MANIFEST_NAME).write_bytes(b"[" * 100_000), {MANIFEST_NAME}),
    (lambda f: replace(f / MANIFEST_NAME, os.mkfifo), {MANIFEST_NAME}),
    (lambda f: replace(f / MANIFEST_NAME, lambda p: p.symlink_to("config.json")), {MANIFEST_NAME}),
    (lambda f: forge(f, lambda document: document.update(metrics={"loss": 0.1})), {MANIFEST_NAME}),
    (lambda f: forge(f, lambda document: document.pop("files")), {MANIFEST_NAME}),
    (lambda f: forge(f, lambda document: document["files"].update({"../../x": {"bytes": 1}})), {MANIFEST_NAME}),
]


def replace(path: Path, make) -> None:
    path.unlink()
    make(path)


def forge(folder: Path, change) -> None:
    document = json.loads((folder / MANIFEST_NAME).read_bytes())
    change(document)
    (folder / MANIFEST_NAME).write_bytes(render_manifest(document))


@pytest.mark.parametrize(("damage", "files"), DAMAGES)
def test_damage_is_found_named_and_passed_over(store, stage, damage, files):
    commit(store, stage(), FIRST)
    commit(store, stage(), STEP.format(2))
    damage(store.fetch(STEP.format(2)))
    assert {found.file for found in store.verify(STEP.format(2))} == files
    whole = [artifact.name for artifact in store.list("checkpoints/run-1") if not store.verify(artifact.name)]
    assert whole == [FIRST]


def test_artifact_under_another_name_is_found(store, stage):
    commit(store, stage())
    store.fetch(FIRST).rename(store._root / "checkpoints" / "run-1" / "step-00000009")
    (damage,) = store.verify(STEP.format(9))
    assert damage.file == MANIFEST_NAME
    assert FIRST in damage.message


def test_listing_shows_artifacts_whose_manifest_is_damaged(store, stage):
    commit(store, stage(), FIRST)
    commit(store, stage(), "datasets/a", kind="dataset")
    (store.fetch(FIRST) / MANIFEST_NAME).write_text("{")
    listed = {artifact.name: artifact.damage for artifact in store.list()}
    assert list(listed) == [FIRST, "datasets/a"]
    assert "damaged" in listed[FIRST]
    assert listed["datasets/a"] is None
    assert [artifact.name for artifact in store.list("data")] == []
    with pytest.raises(ArtifactError, match="damaged"):
        store.manifest(FIRST)


def test_planted_pickle_is_data_like_any_other(store, stage, scratch):
    canary = scratch / "canary"
    pickle = b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    commit(store, stage({"pytorch_model.bin": pickle, "trainer/state.pkl": pickle}))
    (store.fetch(FIRST) / "extra.pkl").write_bytes(pickle)
    store.verify(FIRST)
    store.list()
    assert not canary.exists()


def test_identical_large_files_share_space(store, stage):
    big = random.Random(1).randbytes(1 << 20)
    for step in (1, 2, 3):
        commit(store, stage({"base.safetensors": big, "state.json": b"%d" % step}), STEP.format(step))
    inodes = {(store.fetch(STEP.format(step)) / "base.safetensors").stat().st_ino for step in (1, 2, 3)}
    assert len(inodes) == 1
    assert [artifact.name for artifact in store.list() if store.verify(artifact.name)] == []
    assert list(store.collect([FIRST, STEP.format(2)])) == [STEP.format(2), FIRST]
    assert store.verify(STEP.format(3)) == []


def test_new_file_is_not_shared_with_a_damaged_one(store, stage):
    big = random.Random(1).randbytes(1 << 20)
    commit(store, stage({"base.safetensors": big}), FIRST)
    flip(store.fetch(FIRST) / "base.safetensors", 12345, 4)
    commit(store, stage({"base.safetensors": big}), STEP.format(2))
    commit(store, stage({"base.safetensors": big}), STEP.format(3))
    assert store.verify(STEP.format(2)) == []
    assert store.verify(STEP.format(3)) == []
    assert store.verify(FIRST)


def test_collect_keeps_pins_inputs_and_the_newest_checkpoint(store, stage):
    base = commit(store, stage({"a": b"base"}), "models/base", kind="model")
    data = commit(store, stage({"a": b"data"}), "datasets/d", kind="dataset", inputs=[base.uri])
    for step in (1, 2, 3):
        commit(store, stage({"a": b"%d" % step}), STEP.format(step), inputs=[data.hash])
    store.pin(FIRST)
    everything = [artifact.name for artifact in store.list()]

    assert store.collect(everything, dry_run=True) == [STEP.format(2)]
    assert store.collect(everything) == [STEP.format(2)]
    assert [a.name for a in store.list() if a.pinned] == [FIRST]
    store.pin(FIRST, pinned=False)
    assert store.collect([FIRST, "models/base"]) == [FIRST]
    assert [artifact.name for artifact in store.list()] == [STEP.format(3), "datasets/d", "models/base"]


def test_collect_keeps_the_newest_checkpoint_that_verifies(store, stage):
    for step in (1, 2, 3):
        commit(store, stage({"a": b"%d" % step}), STEP.format(step))
    (store.fetch(STEP.format(3)) / "a").unlink()
    names = [artifact.name for artifact in store.list()]
    assert set(store.collect(names)) == {FIRST, STEP.format(3)}
    assert store.verify(STEP.format(2)) == []


def test_collect_removes_dependents_with_their_inputs(store, stage):
    data = commit(store, stage({"a": b"data"}), "datasets/d", kind="dataset")
    commit(store, stage({"a": b"x"}), "datasets/e", kind="dataset", inputs=[data.hash])
    assert list(store.collect(["datasets/d", "datasets/e"])) == ["datasets/e", "datasets/d"]
    assert list(store._root.iterdir()) == [store._root / ".nexa"]


def test_collect_in_a_store_that_does_not_exist_makes_none(store):
    assert store.collect(["checkpoints/x"]) == []
    assert store.list() == []
    assert not store._root.exists()


def test_missing_artifact_is_named(store):
    for use in (store.manifest, store.verify, store.fetch, store.pin):
        with pytest.raises(ArtifactError, match="no artifact checkpoints/none"):
            use("checkpoints/none")


def test_manifest_bytes_have_one_form(store, stage):
    commit(store, stage())
    content = (store.fetch(FIRST) / MANIFEST_NAME).read_bytes()
    parse_manifest(content)
    for changed in (content + b"\n", content.replace(b"  ", b"   ", 1), b"\xef\xbb\xbf" + content, content[:-1]):
        with pytest.raises(ArtifactError):
            parse_manifest(changed)
