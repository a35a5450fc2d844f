"""Load the tokenizer of a recipe, and find how long its model's sequences may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.errors import DataError, Problem, RecipeError, UserError
from nexa.prepared import cache_root
from nexa_torch.architectures import ARCHITECTURES, DEFAULT_ROW_LENGTH
from nexa_torch.data.gguf_header import read_gguf_header
from nexa_torch.data.hub import download_hint, require_reachable
from nexa_torch.data.locate import local_path, store_in_cache
from nexa_torch.sources import PACKAGE_SCHEME, resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nexa.recipe.sections.model import ModelSection

BYTES = "bytes"
# Names under which model configurations keep the longest sequence.
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def load_tokenizer(model: ModelSection) -> PreTrainedTokenizerBase:
    """Load `model.tokenizer`, or else the model's own, with `model.chat_template` in place where set.

    Raises UserError where there is none, it can't be fetched, or it has no fast form. Code from the
    hub is never run.
    """
    source = model.tokenizer or model.name
    if source == BYTES:
        from nexa_torch.data.byte_tokenizer import byte_tokenizer

        tokenizer = byte_tokenizer()
    elif model.tokenizer is None and model.name in ARCHITECTURES:
        raise UserError(
            f"model.name {model.name!r} is an architecture without a tokenizer of its own",
            hint=f'set model.tokenizer to a folder, hub id, GGUF file or pkg:PACKAGE/FILE, or to "{BYTES}"',
        )
    else:
        tokenizer = _load(source, model.revision if model.tokenizer is None else None)
    if model.chat_template is not None:
        tokenizer.chat_template = _read_template(local_path(model.chat_template))
    return tokenizer


def context_length(model: ModelSection) -> int | None:
    """Longest sequence in tokens that an existing model allows; None where it does not say, or for an architecture."""
    source = resolve_source(model.name)
    if source.kind == "architecture":
        return None
    if source.kind == "gguf" and source.path is not None:
        return read_gguf_header(source.path).context_length
    if source.path is not None:
        config = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
    else:
        config = _hub_config(model.name, model.revision)
    config = {**config, **(config.get("text_config") or {})}
    return next((config[key] for key in _LENGTH_KEYS if isinstance(config.get(key), int)), None)


def row_length(model: ModelSection) -> int:
    """Tokens a training row holds: `model.max_seq_len`, or what the model allows up to 2048.

    Raises RecipeError where max_seq_len exceeds what the model allows.
    """
    limit = context_length(model)
    if model.max_seq_len is None:
        return min(limit or DEFAULT_ROW_LENGTH, DEFAULT_ROW_LENGTH)
    if limit is not None and model.max_seq_len > limit:
        raise RecipeError(
            [
                Problem(
                    path="model.max_seq_len",
                    message=f"{model.max_seq_len} tokens are longer than {model.name} allows, which is {limit}",
                    hint=f"set model.max_seq_len={limit} or less",
                )
            ]
        )
    return model.max_seq_len


def _load(source: str, revision: str | None) -> PreTrainedTokenizerBase:
    path = local_path(source)
    if path.suffix == ".gguf" and path.is_file():
        return _load_gguf(path)
    if path.is_dir():
        return _from_pretrained(str(path), hint=f"{path} must hold tokenizer.json or tokenizer.model")
    if path.suffix == ".gguf" or source.startswith((PACKAGE_SCHEME, "/", ".", "~")) or source.count("/") > 1:
        raise UserError(f"tokenizer not found: {path}", hint="it must be a folder, a GGUF file or a hub id")
    require_reachable(source)
    return _from_pretrained(source, hint=download_hint(source), revision=revision)


def _from_pretrained(
    name: str, *, hint: str, revision: str | None = None, gguf_file: str | None = None
) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    options = {key: value for key, value in (("revision", revision), ("gguf_file", gguf_file)) if value is not None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    # Parsers, converters and the hub client raise errors of many kinds for a bad or absent tokenizer.
    except Exception as error:
        raise UserError(f"the tokenizer of {name} can't be loaded: {_first_line(error)}", hint=hint) from None
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of {name} has no fast form, so loss masks can't be made exact",
            hint="convert it to a tokenizer.json, or set model.tokenizer to another",
        )
    return tokenizer


def _load_gguf(path: Path) -> PreTrainedTokenizerBase:
    """Tokenizer of a GGUF file.

    Its conversion takes seconds, so the result is kept in the user's cache under the hash of the file's metadata.
    """
    import transformers

    cached = cache_root() / "tokenizers" / f"{read_gguf_header(path).sha256[:32]}-{transformers.__version__}"
    if cached.is_dir():
        return _from_pretrained(str(cached), hint=f"remove the folder {cached} and try again")
    tokenizer = _from_pretrained(
        str(path.parent),
        hint="the GGUF file's tokenizer is of a kind that transformers can't convert",
        gguf_file=path.name,
    )
    store_in_cache(cached, tokenizer.save_pretrained)
    return tokenizer


def _hub_config(name: str, revision: str | None) -> dict[str, Any]:
    from transformers import PretrainedConfig

    require_reachable(name)
    try:
        config, _ = PretrainedConfig.get_config_dict(name, revision=revision)
    except OSError as error:
        raise UserError(f"the model {name} can't be loaded: {_first_line(error)}", hint=download_hint(name)) from None
    return config


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"model.chat_template: {path} can't be read: {_first_line(error)}",
            hint="it must be a file with a Jinja template",
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
