"""Bad input: one clear message, the right exit code, and nothing left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from workspace import RECIPE, ROWS, Outcome, Workspace, status

GOOD_ROW = json.dumps(ROWS[0])


def refused(workspace: Workspace, outcome: Outcome, *expected: str, exit_code: int = 2) -> None:
    """The command failed as it should: these patterns in its message, no traceback, no run, no artifact."""
    assert outcome.exit_code == exit_code, outcome.out + outcome.err
    for pattern in expected:
        assert re.search(pattern, outcome.err), f"{pattern!r} is not in:\n{outcome.err}"
    assert "Traceback" not in outcome.out + outcome.err
    assert outcome.err.count("error:") == 1, outcome.err
    assert not workspace.runs_dir.exists() or not list(workspace.runs_dir.iterdir())
    assert not workspace.store.exists() or not list(workspace.store.rglob("manifest.json"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RECIPE.replace("max_steps", "max_step"), [r"tiny\.yaml:14:3", "training.max_step", "max_steps"]),
        (RECIPE.replace("max_steps: 4", "max_steps: four"), [r"tiny\.yaml:14:", "training.max_steps"]),
        (RECIPE.replace("global_batch_size: 4", "global_batch_size: 5"), [r"tiny\.yaml:13:", "5 rows", "4 or 6"]),
        (RECIPE + "backend: trch\n", ["trch", "torch"]),
        (RECIPE + "scheduler: slrm\n", ["slrm", "local"]),
        (RECIPE.replace("method: sft", "method: sfft"), ["sfft", "sft"]),
        (RECIPE + "meta: !!python/object/apply:os.system ['touch canary']\n", [r"tiny\.yaml:20:", "tag"]),
        (RECIPE + "meta:\n  a: &a [x, x]\n  b: &b [*a, *a]\n  c: [*b, *b]\n", [r"tiny\.yaml:2\d:", "alias|anchor"]),
        (RECIPE + "method: pretrain\n", [r"tiny\.yaml:20:1", "method"]),
        ("model: [\n", [r"tiny\.yaml:\d+:"]),
        ("", [r"tiny\.yaml"]),
        (RECIPE.replace("lr: 1e-3", "lr: .nan"), [r"tiny\.yaml:17:7:", "finite"]),
        (RECIPE.replace("n_heads: 4", "n_heads: 5"), ["n_heads", "64"]),
        (RECIPE + "extends: tiny.yaml\n", ["tiny"]),
    ],
    ids=[
        "unknown-key",
        "wrong-type",
        "batch-does-not-divide",
        "unknown-backend",
        "unknown-scheduler",
        "unknown-method",
        "python-tag",
        "yaml-bomb",
        "duplicate-key",
        "broken-yaml",
        "empty-file",
        "not-a-number",
        "heads-do-not-divide",
        "extends-itself",
    ],
)
def test_recipe(workspace: Workspace, text: str, expected: list[str]) -> None:
    (workspace.folder / "tiny.yaml").write_text(text)
    refused(workspace, workspace.nexa("launch", "tiny.yaml"), *expected)
    assert not (workspace.folder / "canary").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["launch"], ["which recipe", "recipe list"]),
        (["launch", "tinny.yaml"], ["tinny.yaml"]),
        (["launch", "tiny.yaml", "v1"], ["one recipe"]),
        (["launch", "tiny.yaml", "training.max_step=3"], ["max_step", "max_steps"]),
        (["launch", "tiny.yaml", "--run-name", "../escape"], ["run.name"]),
        (["launch", "tiny.yaml", "--lr", "-1"], ["optimizer.lr"]),
        (["launch", "tiny.yaml", "cluster.num_nodes=2"], ["node"]),
        (["launch", "tiny.yaml", "--dataset", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["launch", "tiny.yaml", "--checkpoint-dir", "nowhere://bucket"], ["nowhere"]),
        (["launch", "tiny.yaml", "tracking.observers=[nobody]"], ["nobody"]),
    ],
    ids=lambda value: "-".join(value[1:]) if value and value[0] == "launch" else "",
)
def test_command_line(workspace: Workspace, arguments: list[str], expected: list[str]) -> None:
    refused(workspace, workspace.nexa(*arguments), *expected)


def test_unknown_mode_lists_the_choices(workspace: Workspace) -> None:
    outcome = workspace.nexa("launch", "--config-mode", "v9")
    assert outcome.exit_code == 2
    assert all(mode in outcome.err for mode in ("v1", "v2", "v3"))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([GOOD_ROW, '{"messages": [', GOOD_ROW], [r"rows\.jsonl:2", "JSON"]),
        ([GOOD_ROW, "", GOOD_ROW], [r"rows\.jsonl:2", "empty"]),
        ([], [r"rows\.jsonl", "empty"]),
        ([GOOD_ROW, '{"messages": [{"role": "robot", "content": "x"}]}'], [r"rows\.jsonl:2", "robot"]),
        ([GOOD_ROW, '{"messages": "hello"}'], [r"rows\.jsonl:2", "messages"]),
    ],
    ids=["malformed-row", "empty-row", "empty-file", "unknown-role", "wrong-field-type"],
)
def test_data_in_a_dry_run(workspace: Workspace, rows: list[str], expected: list[str]) -> None:
    (workspace.folder / "rows.jsonl").write_text("".join(row + "\n" for row in rows))
    refused(workspace, workspace.nexa("launch", "tiny.yaml", "--dry-run"), *expected)


def test_data_in_a_run(workspace: Workspace) -> None:
    (workspace.folder / "rows.jsonl").write_text(f'{GOOD_ROW}\n{{"messages": [\n')
    outcome = workspace.nexa("launch", "tiny.yaml", "--follow")
    assert outcome.exit_code == 2
    assert "rows.jsonl:2" in outcome.out + outcome.err
    assert "Traceback" not in outcome.out + outcome.err
    (run,) = workspace.runs_dir.iterdir()
    ended = status(run)
    assert ended.state == "failed"
    assert "rows.jsonl:2" in ended.reason
    assert not list(workspace.store.rglob("manifest.json"))


def test_expected_hash(workspace: Workspace) -> None:
    outcome = workspace.nexa("launch", "tiny.yaml", "--expected-hash", "0" * 64, "--dry-run")
    refused(workspace, outcome, "0{64}", "hash|SHA-256")


def test_tokenizer_without_chat_template(workspace: Workspace) -> None:
    folder = workspace.folder / "plain"
    folder.mkdir()
    words = {"[UNK]": 0, "a": 1, "b": 2}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "eos_token": "[UNK]"})
    )
    outcome = workspace.nexa("launch", "tiny.yaml", "model.tokenizer=plain", "--dry-run")
    refused(workspace, outcome, "chat template", "model.chat_template")


def test_sequence_longer_than_the_model(workspace: Workspace) -> None:
    folder = workspace.folder / "short"
    folder.mkdir()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, **sizes}
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    # The smallest file in the safetensors format: an empty header.
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    text = RECIPE.replace("name: llama", "name: short")
    (workspace.folder / "tiny.yaml").write_text(re.sub(r"  (d_model|n_layers|n_heads): \d+\n", "", text))
    refused(workspace, workspace.nexa("launch", "tiny.yaml", "--dry-run"), "max_seq_len", "128", "64")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda folder: (folder / "runs").write_text("a file"), id="a-file"),
        pytest.param(lambda folder: (folder / "runs").symlink_to("/proc/nexa"), id="an-impossible-place"),
    ],
)
def test_run_folder_that_can_not_be_made(workspace: Workspace, spoil: Callable[[Path], None]) -> None:
    spoil(workspace.folder)
    outcome = workspace.nexa("launch", "tiny.yaml")
    assert outcome.exit_code == 2
    assert "NEXA_RUNS_DIR" in outcome.err
    assert "Traceback" not in outcome.err


def plant_plugin(folder: Path, source: str) -> None:
    """Install a distribution `nexa-planted` with entry point `planted` into an import folder."""
    information = folder / "nexa_planted-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-planted\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[nexa]\nplanted = nexa_planted\n")
    (folder / "nexa_planted.py").write_text(source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [("import no_such_library\n", "no_such_library"), ("import sys\nsys.exit(7)\n", "SystemExit")],
    ids=["import-error", "system-exit"],
)
def test_plugin_that_fails_to_import(workspace: Workspace, source: str, expected: str) -> None:
    planted = workspace.folder / "planted"
    plant_plugin(planted, source)
    outcome = workspace.nexa("launch", "tiny.yaml", "--backend", "planted", PYTHONPATH=str(planted))
    refused(workspace, outcome, "nexa-planted", expected)
    # Who does not name it is not bothered by it.
    assert workspace.nexa("launch", "tiny.yaml", "--explain", PYTHONPATH=str(planted)).exit_code == 0
