"""What prepared data depends on, as one key: the data, the tokenizer, the options and the code that prepares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CODE = (
    *("byte_tokenizer", "documents", "encode", "fields", "packing", "prepare"),
    *("readers", "store", "template", "template_proof", "views"),
)
_LIBRARIES = ("numpy", "tokenizers", "transformers")


def content_key(fields: Mapping[str, Any]) -> str:
    """A name of 40 hexadecimal digits for JSON values."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:40]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 in hex of all that decides how text becomes tokens: vocabulary, rules, special tokens, template."""
    digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    settings = [tokenizer.chat_template, tokenizer.special_tokens_map, tokenizer.eos_token_id, len(tokenizer)]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def code_version() -> str:
    """SHA-256 in hex of the modules that prepare data and the versions of the libraries that they use."""
    digest = hashlib.sha256()
    for name in _CODE:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    for library in _LIBRARIES:
        digest.update(f"{library} {metadata.version(library)}\n".encode())
    return digest.hexdigest()
