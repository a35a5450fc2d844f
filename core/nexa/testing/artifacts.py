"""Contract tests of an artifact store: what is committed stays, whole and unchanged, until collected."""

from __future__ import annotations

import hashlib
import json
import stat
from datetime import datetime
from pathlib import Path

import pytest

from nexa.artifacts import MANIFEST_NAME, ArtifactMeta, ArtifactStore
from nexa.errors import ArtifactError, UserError
from nexa.plugins import PluginHost
from nexa.testing.base import CreatedPluginContract

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 64, "trainer/state.json": b'{"step": 4}'}
HOSTILE_NAMES = (
    "",
    ".",
    "..",
    "../outside",
    "/absolute",
    "a/../b",
    "a//b",
    "a/./b",
    "a\0b",
    "a\nb",
    "a\\..\\b",
    "x" * 2000,
)


class ArtifactStoreContract(CreatedPluginContract):
    """Every test an artifact store must pass.

    Override the fixture `store_uri` for a store that is not a folder, and `damage` where a committed
    file can't be changed through the folder that `fetch` returns.
    """

    kind = "artifact-store"

    @pytest.fixture
    def store_uri(self, tmp_path: Path) -> str:
        """URI of a store that is empty and belongs to one test."""
        return f"{self.plugin_name}://{tmp_path}/store"

    @pytest.fixture
    def store(self, host: PluginHost, store_uri: str) -> ArtifactStore:
        """The store under test, opened."""
        store = host.create("artifact-store", self.plugin_name)
        store.open(store_uri)
        return store

    @pytest.fixture
    def other(self, host: PluginHost, store_uri: str, store: ArtifactStore) -> ArtifactStore:
        """A second view of the same store, as another process has it."""
        other = host.create("artifact-store", self.plugin_name)
        other.open(store_uri)
        return other

    def stage(self, folder: Path, files: dict[str, bytes] | None = None) -> Path:
        """Write files into a new staging folder."""
        for name, content in (FILES if files is None else files).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder

    def commit(self, store: ArtifactStore, tmp_path: Path, name: str, **fields: object) -> ArtifactMeta:
        """Stage the usual files and commit them under `name`."""
        staged = self.stage(tmp_path / f"staged-{hashlib.sha256(name.encode()).hexdigest()[:8]}")
        arguments: dict[str, object] = {"kind": "checkpoint", "manifest": {"metrics": {"loss": 1.5}}, **fields}
        return store.commit(staged, name, **arguments)  # type: ignore[arg-type]

    def damage(self, store: ArtifactStore, name: str, file: str) -> None:
        """Flip a bit of one committed file behind the store's back."""
        path = store.fetch(name) / file
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def test_an_unused_store_is_empty(self, store: ArtifactStore) -> None:
        """Opening creates nothing; listing a store that does not exist yet is no error."""
        assert list(store.list()) == []

    def test_commit_identifies_the_artifact(self, store: ArtifactStore, tmp_path: Path) -> None:
        """The returned record says kind, size, time, inputs and labels."""
        meta = self.commit(store, tmp_path, "checkpoints/a/step-1", inputs=["sha256:0"], labels={"team": "x"})
        assert (meta.kind, list(meta.inputs), dict(meta.labels)) == ("checkpoint", ["sha256:0"], {"team": "x"})
        assert meta.bytes == sum(len(content) for content in FILES.values())
        assert meta.hash.startswith("sha256:")
        assert len(meta.hash) == len("sha256:") + 64
        assert datetime.fromisoformat(meta.created_at).tzinfo is not None
        assert "://" in meta.uri

    def test_commit_consumes_what_was_staged(self, store: ArtifactStore, tmp_path: Path) -> None:
        """Nobody can change the artifact through the staging folder."""
        staged = self.stage(tmp_path / "staged")
        store.commit(staged, "checkpoints/a", kind="checkpoint", manifest={})
        assert not staged.exists()

    def test_fetched_files_are_those_committed(
        self, store: ArtifactStore, other: ArtifactStore, tmp_path: Path
    ) -> None:
        """Another view of the store gets every byte, and a manifest that lists each file."""
        self.commit(store, tmp_path, "checkpoints/a")
        folder = other.fetch("checkpoints/a")
        assert {name: (folder / name).read_bytes() for name in FILES} == FILES
        manifest = other.manifest("checkpoints/a")
        assert manifest["metrics"] == {"loss": 1.5}
        text = json.dumps(manifest)
        for content in FILES.values():
            assert hashlib.sha256(content).hexdigest() in text

    def test_the_hash_depends_on_content_alone(self, store: ArtifactStore, tmp_path: Path) -> None:
        """Same files, other name and manifest: same hash. One changed byte: another."""
        first = self.commit(store, tmp_path, "checkpoints/a")
        second = self.commit(store, tmp_path, "checkpoints/b", manifest={"other": 1})
        changed = self.stage(tmp_path / "changed", {**FILES, "config.json": b"[]"})
        third = store.commit(changed, "checkpoints/c", kind="checkpoint", manifest={})
        assert first.hash == second.hash
        assert third.hash != first.hash

    def test_a_name_is_given_once(self, store: ArtifactStore, other: ArtifactStore, tmp_path: Path) -> None:
        """A second commit under a name fails and changes nothing."""
        first = self.commit(store, tmp_path, "checkpoints/a")
        staged = self.stage(tmp_path / "again", {"config.json": b"other"})
        with pytest.raises(ArtifactError, match="checkpoints/a"):
            other.commit(staged, "checkpoints/a", kind="checkpoint", manifest={})
        assert [stored.meta for stored in store.list()] == [first]
        assert list(store.verify("checkpoints/a")) == []

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_names_stay_inside_the_store(self, store: ArtifactStore, tmp_path: Path, name: str) -> None:
        """A name that could lead elsewhere is refused before anything is written."""
        staged = self.stage(tmp_path / "staged")
        with pytest.raises(UserError):
            store.commit(staged, name, kind="checkpoint", manifest={})
        assert staged.exists()
        assert list(store.list()) == []

    def test_list_is_ordered_and_filtered(self, store: ArtifactStore, tmp_path: Path) -> None:
        """Names come in order; the prefix is a path, not the start of a word."""
        for name in ("checkpoints/run-10/step-2", "checkpoints/run-1/step-2", "checkpoints/run-1/step-1", "datasets/d"):
            self.commit(store, tmp_path, name)
        assert [stored.name for stored in store.list()] == [
            "checkpoints/run-1/step-1",
            "checkpoints/run-1/step-2",
            "checkpoints/run-10/step-2",
            "datasets/d",
        ]
        assert [stored.name for stored in store.list("checkpoints/run-1")] == [
            "checkpoints/run-1/step-1",
            "checkpoints/run-1/step-2",
        ]
        assert list(store.list("nothing/here")) == []

    @pytest.mark.parametrize("file", sorted(FILES))
    def test_verify_finds_and_names_damage(self, store: ArtifactStore, tmp_path: Path, file: str) -> None:
        """One flipped bit in any file is found and the file is named; other artifacts stay whole."""
        self.commit(store, tmp_path, "checkpoints/a")
        intact = self.stage(tmp_path / "intact", {"config.json": b"unlike the others"})
        store.commit(intact, "checkpoints/b", kind="checkpoint", manifest={})
        self.damage(store, "checkpoints/a", file)
        assert file in [damage.file for damage in store.verify("checkpoints/a")]
        assert list(store.verify("checkpoints/b")) == []

    def test_a_missing_artifact_is_an_error(self, store: ArtifactStore) -> None:
        """Every access by name says which artifact there is not."""
        for access in (store.manifest, store.verify, store.fetch, store.pin):
            with pytest.raises(ArtifactError, match="checkpoints/none"):
                access("checkpoints/none")

    def test_pins_are_shared_and_can_be_taken_back(
        self, store: ArtifactStore, other: ArtifactStore, tmp_path: Path
    ) -> None:
        """A pinned artifact is not collected, whoever pinned it."""
        self.commit(store, tmp_path, "datasets/a", kind="dataset")
        store.pin("datasets/a")
        assert [stored.pinned for stored in other.list()] == [True]
        assert list(other.collect(["datasets/a"])) == []
        store.pin("datasets/a", pinned=False)
        assert list(other.collect(["datasets/a"])) == ["datasets/a"]
        assert list(store.list()) == []

    def test_collect_keeps_what_others_were_made_from(self, store: ArtifactStore, tmp_path: Path) -> None:
        """An input of an artifact that stays is protected; collected together, both go."""
        source = self.stage(tmp_path / "source", {"rows.jsonl": b"{}\n"})
        dataset = store.commit(source, "datasets/rows", kind="dataset", manifest={})
        self.commit(store, tmp_path, "datasets/derived", kind="dataset", inputs=[dataset.hash])
        assert list(store.collect(["datasets/rows"])) == []
        both = ["datasets/rows", "datasets/derived"]
        assert sorted(store.collect(both, dry_run=True)) == sorted(both)
        assert len(store.list()) == len(both)
        assert sorted(store.collect(both)) == sorted(both)
        assert list(store.list()) == []

    def test_the_manifest_is_the_last_word(self, store: ArtifactStore, tmp_path: Path) -> None:
        """A staged file called like the manifest is refused rather than replaced."""
        staged = self.stage(tmp_path / "staged", {**FILES, MANIFEST_NAME: b"{}"})
        with pytest.raises((ArtifactError, UserError)):
            store.commit(staged, "checkpoints/a", kind="checkpoint", manifest={})
        assert list(store.list()) == []
