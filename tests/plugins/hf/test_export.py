"""`nexa export`: what it writes, what it proves, and that failures leave nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hf_running import hf_recipe, tiny_model
from running import Finished, Run, chat_rows

from nexa.cli.main import command
from nexa.errors import NexaError
from nexa_hf.run import run_training
from nexa_torch.run import run_training as run_torch

PAIRS = [{"prompt": f"Colour {i}?", "chosen": "Blue.", "rejected": f"Seven {i}."} for i in range(4)]
LORA = {"rank": 4, "alpha": 64.0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    return tiny_model(place / "base", chat_rows(place))


@pytest.fixture(scope="module")
def train(place: Path, base: Path) -> Callable[..., Finished]:
    """Function that trains an adapter with a backend and method, once, with weights that matter."""
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    done: dict[Any, Finished] = {}

    def trained(backend: str, method: str, adapter: bool = True) -> Finished:
        key = (backend, method, adapter)
        if key not in done:
            rows = chat_rows(place) if method == "sft" else place / "pairs.jsonl"
            recipe = hf_recipe(
                rows, base, backend=backend, method=method, training={"max_steps": 2}, optimizer={"lr": 0.02}
            )
            recipe["adapter"] = LORA if adapter else None
            recipe["optimizer"].pop("scheduler")
            runner = run_torch if backend == "torch" else run_training
            done[key] = Run(place / "-".join(map(str, key)), recipe, train=runner).attempt()
        return done[key]

    return trained


def export(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["export", *map(str, arguments)], catch_exceptions=True)


def refused(result: Result) -> str:
    assert isinstance(result.exception, NexaError), result.output
    assert result.exception.exit_code == 2
    return str(result.exception)


@pytest.mark.parametrize(("backend", "method"), [("torch", "sft"), ("hf", "dpo")])
def test_a_merged_model_is_the_adapter_in_plain_transformers(
    train: Callable[..., Finished], base: Path, tmp_path: Path, backend: str, method: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = train(backend, method).checkpoint
    assert checkpoint is not None
    result = export(checkpoint, tmp_path / "merged", "--merge", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert 0 <= report["largest_difference"] <= report["tolerance"] == 1e-4
    assert report["base"] == str(base)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(base)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "merged")("A colour, please.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = plain(tokens).logits
        adapted = PeftModel.from_pretrained(plain, checkpoint)(tokens).logits
        found = merged(tokens).logits
    assert not torch.allclose(before, adapted, atol=1e-3), "the adapter changes something"
    torch.testing.assert_close(found, adapted, rtol=0, atol=1e-4 * float(adapted.abs().max()))
    manifest = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert (manifest["kind"], manifest["export"]["merged"]) == ("model", True)
    assert manifest["inputs"] == [json.loads((checkpoint / "manifest.json").read_text())["hash"]]


def test_an_adapter_of_a_reward_model_is_merged_with_its_head(train: Callable[..., Finished], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    checkpoint = train("hf", "reward").checkpoint
    result = export(checkpoint, tmp_path / "merged", "--merge")
    assert result.exit_code == 0, result.output
    assert "merged into" in result.output
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").config.num_labels == 1


def test_without_merging_the_model_is_copied_without_trainer_state(
    train: Callable[..., Finished], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    whole, adapter = train("torch", "sft", False).checkpoint, train("torch", "sft").checkpoint
    assert export(whole, tmp_path / "whole").exit_code == 0
    assert export(adapter, tmp_path / "adapter").exit_code == 0
    assert {path.name for path in (tmp_path / "whole").iterdir()} >= {"config.json", "model.safetensors"}
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert not list(tmp_path.rglob("trainer*"))
    AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert "nothing to merge" in refused(export(whole, tmp_path / "again", "--merge"))
    assert "exists already" in refused(export(whole, tmp_path / "whole"))
    assert "does not exist" in refused(export(whole, tmp_path / "no" / "where"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "whole"]


def test_an_adapter_of_another_base_model_is_refused(
    train: Callable[..., Finished], base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    from nexa_torch.chat import open_chat

    checkpoint = train("hf", "dpo").checkpoint
    assert checkpoint is not None
    file = base / "model.safetensors"
    original = file.read_bytes()
    tensors = load_file(file)
    try:
        name = next(name for name in tensors if "up_proj" in name)
        save_file({**tensors, name: tensors[name] * 1.5}, file, metadata={"format": "pt"})
        said = refused(export(checkpoint, tmp_path / "merged", "--merge"))
        with pytest.raises(NexaError, match="another base model"):
            open_chat(checkpoint)
    finally:
        file.write_bytes(original)
    assert "was trained on another base model" in said
    assert list(tmp_path.iterdir()) == []


def test_a_merged_model_that_is_not_equal_never_appears(
    train: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexa_torch import export as exporting

    monkeypatch.setattr(exporting, "_logits", _with_noise(exporting._logits))
    said = refused(export(train("hf", "dpo").checkpoint, tmp_path / "merged", "--merge"))
    assert "the merged model is not the adapter's equal: logits differ by" in said
    assert list(tmp_path.iterdir()) == []


def _with_noise(logits: Callable[..., list[torch.Tensor]]) -> Callable[..., list[torch.Tensor]]:
    calls = []

    def noisy(*arguments: Any) -> list[torch.Tensor]:
        calls.append(arguments)
        return [values * (1 + 1e-3 * (len(calls) - 1)) for values in logits(*arguments)]

    return noisy


def test_a_backend_that_can_not_export_says_which_can(tmp_path: Path) -> None:
    from nexa.checkpoints import Checkpoint
    from nexa.errors import UserError
    from nexa.exporting import export_checkpoint

    with pytest.raises(NexaError, match="there is no backend 'nobody'"):
        export_checkpoint(Checkpoint(name="x", folder=tmp_path, backend="nobody"), tmp_path / "y", merge=False)
    with pytest.raises(UserError, match="holds no model that transformers reads"):
        export_checkpoint(Checkpoint(name="x", folder=tmp_path, backend="torch"), tmp_path / "y", merge=False)
    assert list(tmp_path.iterdir()) == []
