"""Data is found wherever it lies, read alike in every file kind, and hashed by content."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nexa.errors import DataError
from nexa_torch.data.documents import parse_documents
from nexa_torch.data.sources import Source, open_source

ROWS = [{"text": "Grüße"}, {"text": "日本"}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def _texts(source: Source) -> list[str | None]:
    return [document.text for document in parse_documents(source.records(), "auto", answers=False)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL),
        ("a.jsonl", b"\xef\xbb\xbf" + JSONL),
        ("a.jsonl", JSONL.replace(b"\n", b"\r\n")),
        ("a.jsonl", JSONL.rstrip(b"\n")),
        ("a.jsonl", JSONL + b"\n\n"),
        ("a.ndjson", JSONL),
        ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.json", b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode()),
    ],
)
def test_file_kinds(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    source = open_source(str(tmp_path / name), cache=tmp_path)
    assert _texts(source) == ["Grüße", "日本"]
    assert _texts(source) == ["Grüße", "日本"], "each pass starts anew"
    assert source.sha256 == hashlib.sha256(content).hexdigest()


def test_parquet(tmp_path: Path) -> None:
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert _texts(open_source(str(tmp_path / "a.parquet"), cache=tmp_path)) == ["Grüße", "日本"]


def test_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n\ntwo\n")
    assert _texts(open_source(str(tmp_path / "a.md"), cache=tmp_path)) == ["# One\n\ntwo\n"]


def test_folder_is_read_in_order_of_paths(tmp_path: Path) -> None:
    for name, text in (("b/x.txt", "three"), ("a.txt", "one"), ("b/a.jsonl", '{"text": "two"}'), (".git/z.txt", "no")):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "data" / "note.pdf").touch()
    source = open_source(str(tmp_path / "data"), cache=tmp_path)
    assert _texts(source) == ["one", "two", "three"]
    (tmp_path / "data").rename(tmp_path / "moved")
    assert open_source(str(tmp_path / "moved"), cache=tmp_path).sha256 == source.sha256
    (tmp_path / "moved" / "a.txt").rename(tmp_path / "moved" / "aa.txt")
    assert open_source(str(tmp_path / "moved"), cache=tmp_path).sha256 != source.sha256


def test_file_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packaged_rows"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('a data package is not imported')")
    (package / "rows.jsonl").write_bytes(JSONL)
    monkeypatch.syspath_prepend(tmp_path)
    assert _texts(open_source("pkg:packaged_rows/rows.jsonl", cache=tmp_path)) == ["Grüße", "日本"]


@pytest.fixture
def memory_store() -> object:
    """An fsspec file system of its own kind, empty."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    return store


def test_remote_file_is_fetched_once_and_again_when_it_changes(memory_store: object, tmp_path: Path) -> None:
    memory_store.pipe("/bucket/rows.jsonl", JSONL)
    first = open_source("memory://bucket/rows.jsonl", cache=tmp_path)
    assert _texts(first) == ["Grüße", "日本"]
    assert first.sha256 == hashlib.sha256(JSONL).hexdigest()
    copies = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    inode = copies[0].stat().st_ino
    open_source("memory://bucket/rows.jsonl", cache=tmp_path)
    assert [path.stat().st_ino for path in (tmp_path / "data").rglob("*") if path.is_file()] == [inode]
    memory_store.pipe("/bucket/rows.jsonl", b'{"text": "new"}\n')
    assert _texts(open_source("memory://bucket/rows.jsonl", cache=tmp_path)) == ["new"]


def test_remote_folder(memory_store: object, tmp_path: Path) -> None:
    memory_store.pipe("/bucket/set/b.txt", b"two")
    memory_store.pipe("/bucket/set/a/x.jsonl", b'{"text": "one"}\n')
    memory_store.pipe("/bucket/set/readme.pdf", b"no data")
    assert _texts(open_source("memory://bucket/set", cache=tmp_path)) == ["one", "two"]


def test_pinned_copy_needs_no_network(memory_store: object, tmp_path: Path) -> None:
    memory_store.pipe("/bucket/rows.jsonl", JSONL)
    expected = hashlib.sha256(JSONL).hexdigest()
    open_source("memory://bucket/rows.jsonl", cache=tmp_path, expected_hash=expected)
    memory_store.rm("/bucket/rows.jsonl")
    assert _texts(open_source("memory://bucket/rows.jsonl", cache=tmp_path, expected_hash=expected)) == [
        "Grüße",
        "日本",
    ]


def test_remote_data_with_another_hash_leaves_nothing(memory_store: object, tmp_path: Path) -> None:
    memory_store.pipe("/bucket/rows.jsonl", JSONL)
    with pytest.raises(DataError, match="has SHA-256"):
        open_source("memory://bucket/rows.jsonl", cache=tmp_path, expected_hash="0" * 64)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_failed_download_leaves_nothing(memory_store: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_store.pipe("/bucket/a.jsonl", JSONL)
    memory_store.pipe("/bucket/b.jsonl", JSONL)
    whole = type(memory_store).get_file

    def cut_off(self: object, remote: str, local: str, **options: object) -> None:
        if remote.endswith("b.jsonl"):
            raise ConnectionError("connection lost")
        whole(self, remote, local, **options)

    monkeypatch.setattr(type(memory_store), "get_file", cut_off)
    with pytest.raises(DataError, match=r"memory://bucket: could not be fetched: ConnectionError: connection lost"):
        open_source("memory://bucket", cache=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_missing_remote_file(memory_store: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="could not be fetched: FileNotFoundError"):
        open_source("memory://bucket/none.jsonl", cache=tmp_path)


@pytest.mark.parametrize("uri", ["s3://bucket/x.jsonl", "gs://bucket/x.jsonl"])
def test_missing_store_package_says_what_to_install(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    package = {"s3": "s3fs", "gs": "gcsfs"}[uri[:2]]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"(?s)needs the package `{package}`.*pip install {package}"):
        open_source(uri, cache=tmp_path)


def test_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library reads a folder just as it reads a hub repository."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(JSONL)
    (folder / "test.jsonl").write_bytes(JSONL.splitlines()[0])
    train = open_source(f"hf:{folder}", cache=tmp_path)
    test = open_source(f"hf:{folder}", cache=tmp_path, split="test")
    assert (_texts(train), _texts(test)) == (["Grüße", "日本"], ["Grüße"])
    assert train.sha256 != test.sha256
    assert next(test.records()).place == f"hf:{folder}[test]:1"
    with pytest.raises(DataError, match="split 'other' could not be loaded"):
        open_source(f"hf:{folder}", cache=tmp_path, split="other")


def test_missing_datasets_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"(?s)needs the package `datasets`.*pip install 'nexa-train\[data\]'"):
        open_source("hf:org/rows", cache=tmp_path)


def test_hub_that_can_not_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = ModuleType("datasets")

    def load_dataset(name: str, **options: object) -> None:
        raise ConnectionError("Couldn't reach 'org/rows' on the Hub")

    datasets.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    with pytest.raises(
        DataError, match=r"(?s)could not be loaded: Couldn't reach.*hf download --repo-type dataset org/rows"
    ):
        open_source("hf:org/rows", cache=tmp_path)
