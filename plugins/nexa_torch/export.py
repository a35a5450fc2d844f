"""A checkpoint's model for other programs: its files as they are, or its adapter merged into the base model.

A merged model is shown to be the adapter's equal: on fixed prompts, its logits, computed by the model that is read
back from the files, differ from those of base model and adapter by no more than TOLERANCE of the largest logit.
Adding an update to a weight in fp32 rounds each of them once, which costs some 1e-6 of a logit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from nexa.errors import ArtifactError, UserError
from nexa_torch.identity import require_base
from nexa_torch.models import load_network, quiet_libraries, stop_tokens
from nexa_torch.scoring import load_scorer, with_score
from nexa_torch.sources import ModelSource, resolve_source

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOLERANCE = 1e-4
"""Largest difference of logits that is allowed, as a share of the largest logit."""
ADAPTER = "adapter_config.json"
_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("adapter_config.json", "base_model.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "chat_template.jinja", "*.model"),
)
_SCORES = "SEQ_CLS"
_TEXTS = (
    "Hello! How are you today?",
    "The capital of France is",
    "def add(a, b):\n    return",
    "1, 1, 2, 3, 5, 8,",
)
_RANDOM_TOKENS = 24


def export_model(checkpoint: Path, destination: Path, *, merge: bool) -> Mapping[str, Any]:
    """Write a checkpoint's model into the empty folder `destination`; return what was shown of it.

    Raises UserError for what is no checkpoint of a model, where there is nothing to merge, where the adapter belongs
    to another base model, and where the merged model is not the adapter's equal; ArtifactError where it can't be
    written.
    """
    quiet_libraries()
    adapter = checkpoint / ADAPTER
    if merge and not adapter.is_file():
        raise UserError(f"{checkpoint} is a whole model, so there is nothing to merge", hint="leave out --merge")
    if merge:
        return _merge(checkpoint, destination, json.loads(adapter.read_text(encoding="utf-8")))
    if not adapter.is_file() and not (checkpoint / "config.json").is_file():
        raise UserError(f"{checkpoint} holds no model that transformers reads")
    for pattern in _FILES:
        for file in checkpoint.glob(pattern):
            shutil.copyfile(file, destination / file.name)
    return {"merged": False}


def _merge(checkpoint: Path, destination: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    from peft import PeftModel
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    name = str(config["base_model_name_or_path"])
    scores = config.get("task_type") == _SCORES
    source = resolve_source(name)
    if source.kind == "architecture":
        raise UserError(
            f"the base of the adapter in {checkpoint} is an architecture, {name}, whose random weights are not kept",
            hint="train adapters on a saved model",
        )
    base = load_network(source, revision=config.get("revision"))
    require_base(base, checkpoint, name)
    if scores:
        base = with_score(base, seed=0)
        base.config.pad_token_id = tokenizer.pad_token_id
    try:
        adapted = PeftModel.from_pretrained(base, str(checkpoint)).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the adapter in {checkpoint} does not fit its base model {name}: {str(error).strip().splitlines()[0]}",
            hint="give the base model that it was trained on, under the name that adapter_config.json records",
        ) from error
    prompts = _prompts(tokenizer, base.get_input_embeddings().num_embeddings)
    expected = _logits(adapted, prompts)
    merged: PreTrainedModel = adapted.merge_and_unload()
    if not scores and merged.generation_config is not None and tokenizer.eos_token_id is not None:
        merged.generation_config.eos_token_id = stop_tokens(merged, tokenizer)
    try:
        merged.save_pretrained(destination)
    except SafetensorError as error:
        raise ArtifactError(f"the merged model can't be written: {error}") from error
    tokenizer.save_pretrained(destination)
    del merged, adapted, base
    written = ModelSource(kind="folder", name=str(destination), location=str(destination))
    found = _logits(load_scorer(str(destination)) if scores else load_network(written), prompts)
    difference = _difference(expected, found)
    if not difference <= TOLERANCE:
        raise UserError(
            f"the merged model is not the adapter's equal: logits differ by {difference:.2g} of the largest, "
            f"{TOLERANCE:.2g} is allowed",
            hint="use the adapter as it is: leave out --merge",
        )
    return {
        "merged": True,
        "base": name,
        "prompts": len(prompts),
        "largest_difference": difference,
        "tolerance": TOLERANCE,
    }


def _prompts(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[Tensor]:
    """Fixed prompts: sentences, and tokens from all over the vocabulary."""
    texts = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in _TEXTS]
    generator = torch.Generator().manual_seed(0)
    known = min(vocabulary, len(tokenizer))
    drawn = [torch.randint(known, (_RANDOM_TOKENS,), generator=generator) for _ in range(2)]
    return [tokens.unsqueeze(0) for tokens in (*texts, *drawn)]


@torch.no_grad()
def _logits(network: Any, prompts: list[Tensor]) -> list[Tensor]:
    return [network(input_ids=tokens, use_cache=False).logits.float() for tokens in prompts]


def _difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference as a share of the largest expected logit; NaN where a logit is none."""
    largest = max(float(logits.abs().max()) for logits in expected)
    apart = torch.stack([(a - b).abs().max() for a, b in zip(expected, found, strict=True)]).max()
    return float(apart) / largest
