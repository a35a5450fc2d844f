"""`nexa artifacts`, as a person and as a script use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexa.cli.main import main
from nexa.stores import open_store

QUICK, OTHER = "20261121-050000-quick-aaaaaa", "20261121-060000-other-bbbbbb"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Two runs with three checkpoints each, in the store of the current folder's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXA_STORE_URI", str(tmp_path / "kept here"))
    store = open_store()
    for run in (QUICK, OTHER):
        for step in (1, 2, 3):
            staged = tmp_path / "staged"
            staged.mkdir()
            (staged / "model.safetensors").write_bytes(run.encode() * step)
            store.commit(staged, name(run, step), kind="checkpoint", manifest={"metrics": {"loss": 1 / step}})
    return store


def name(run: str, step: int) -> str:
    return f"checkpoints/{run}/step-{step:08d}"


def damage(store, artifact: str) -> None:
    file = store.fetch(artifact) / "model.safetensors"
    file.chmod(0o644)
    file.write_bytes(b"\0" + file.read_bytes()[1:])


def test_list(store, capsys):
    assert main(["artifacts", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [artifact.name for artifact in store.list()]
    assert main(["artifacts", "list", f"checkpoints/{QUICK}", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == [name(QUICK, step) for step in (1, 2, 3)]
    assert records[0]["hash"] == store.manifest(name(QUICK, 1))["hash"]


def test_list_of_an_empty_store_says_so(tmp_path, capsys):
    assert main(["artifacts", "list", "--store", str(tmp_path / "none")]) == 0
    assert "no artifacts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("latest", name(OTHER, 3)),
        (QUICK, name(QUICK, 3)),
        ("20261121-05", name(QUICK, 3)),
        (name(QUICK, 1), name(QUICK, 1)),
        (f"checkpoints/{QUICK}/", name(QUICK, 3)),
    ],
)
def test_references(store, capsys, reference, expected):
    assert main(["artifacts", "path", reference]) == 0
    assert Path(capsys.readouterr().out.strip()) == store.fetch(expected)
    assert main(["artifacts", "show", reference, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == expected


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("20261121", f"one of: {QUICK}, {OTHER}"),
        ("nothing", "nexa artifacts list"),
        (name(QUICK, 9), "did you mean"),
        ("../../etc", "no artifact or run"),
        ("", "no artifact or run"),
    ],
)
def test_a_reference_to_nothing_is_the_users_to_change(store, capsys, reference, message):
    assert main(["artifacts", "path", reference]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_verify_names_the_damaged_file_and_exits_with_1(store, capsys):
    assert main(["artifacts", "verify"]) == 0
    damage(store, name(OTHER, 3))
    capsys.readouterr()
    assert main(["artifacts", "verify", "latest"]) == 1
    assert "model.safetensors has been changed" in capsys.readouterr().out
    assert main(["artifacts", "verify", OTHER, "--json"]) == 1
    verdicts = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert [verdicts[name(OTHER, step)]["whole"] for step in (1, 2, 3)] == [True, True, False]
    assert verdicts[name(OTHER, 3)]["damages"][0]["file"] == "model.safetensors"
    assert main(["artifacts", "verify", QUICK]) == 0


def test_a_damaged_checkpoint_is_passed_over_aloud(store, capsys):
    damage(store, name(OTHER, 3))
    assert main(["artifacts", "path", "latest"]) == 0
    captured = capsys.readouterr()
    assert Path(captured.out.strip()) == store.fetch(name(OTHER, 2))
    assert f"{name(OTHER, 3)} is damaged" in captured.err
    assert main(["artifacts", "path", name(OTHER, 3)]) == 1


def test_damaged_manifest_is_listed_as_such(store, capsys):
    manifest = store.fetch(name(OTHER, 3)) / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    assert main(["artifacts", "list"]) == 0
    assert "damaged: manifest.json" in capsys.readouterr().out
    assert main(["artifacts", "show", name(OTHER, 3)]) == 1
    assert main(["artifacts", "path", "latest"]) == 0


def test_pin_and_gc(store, capsys):
    assert main(["artifacts", "pin", name(QUICK, 1)]) == 0
    assert main(["artifacts", "gc", "--keep-last", "1", "--dry-run"]) == 0
    assert len(store.list()) == 6
    capsys.readouterr()
    assert main(["artifacts", "gc", "--keep-last", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["removed"]) == {name(QUICK, 2), name(OTHER, 1), name(OTHER, 2)}
    assert report["protected"] == [name(QUICK, 1)]
    assert main(["artifacts", "pin", name(QUICK, 1), "--remove"]) == 0
    assert main(["artifacts", "gc", QUICK]) == 0
    assert [artifact.name for artifact in store.list()] == [name(QUICK, 3), name(OTHER, 3)]
    assert main(["artifacts", "gc"]) == 0
    assert len(store.list()) == 2


def test_show_for_people_lists_files_and_metrics(store, capsys):
    assert main(["artifacts", "show", name(QUICK, 1)]) == 0
    out = capsys.readouterr().out
    assert "metrics.loss  1.0" in out
    assert store.manifest(name(QUICK, 1))["files"]["model.safetensors"]["sha256"] in out


def test_an_unknown_scheme_is_named(capsys):
    assert main(["artifacts", "list", "--store", "nowhere://x"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_show_counts_long_lists_instead_of_printing_them(store, tmp_path, capsys):
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "a").write_text("")
    packages = {f"package-{number}": "1.0" for number in range(200)}
    store.commit(staged, "datasets/d", kind="dataset", manifest={"lineage": {"environment": {"packages": packages}}})
    assert main(["artifacts", "show", "datasets/d"]) == 0
    out = capsys.readouterr().out
    assert "200 entries" in out
    assert "package-7" not in out
