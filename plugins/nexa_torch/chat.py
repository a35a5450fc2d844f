"""Talk to a checkpoint: whole models, and adapters on the base model they record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.backend import ChatSession
from nexa.errors import UserError
from nexa_torch.generation import chat_prompt, chat_stop_tokens, decode_stream, generate_tokens, text_prompt
from nexa_torch.identity import require_base
from nexa_torch.models import load_network, quiet_libraries
from nexa_torch.sources import ModelSource, resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ADAPTER_CONFIG = "adapter_config.json"


class TorchChatSession(ChatSession):
    """A model and its tokenizer, answering on CPU or on the first GPU."""

    def __init__(self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self._stop_ids = chat_stop_tokens(network, tokenizer)

    def reply(self, messages: Sequence[Mapping[str, str]], *, max_new_tokens: int, temperature: float) -> Iterator[str]:
        """Yield the answer piece by piece. Raises UserError without a chat template."""
        if not self.tokenizer.chat_template:
            raise UserError(
                "this checkpoint's tokenizer has no chat template", hint="continue plain text: nexa generate"
            )
        return self._stream(chat_prompt(self.tokenizer, messages), max_new_tokens, temperature)

    def complete(self, text: str, *, max_new_tokens: int, temperature: float) -> Iterator[str]:
        """Yield the continuation of plain text piece by piece."""
        return self._stream(text_prompt(self.tokenizer, text), max_new_tokens, temperature)

    def _stream(self, prompt: Sequence[int], max_new_tokens: int, temperature: float) -> Iterator[str]:
        tokens = generate_tokens(
            self.network, prompt, max_new_tokens=max_new_tokens, temperature=temperature, stop_ids=self._stop_ids
        )
        return decode_stream(self.tokenizer, tokens)


def open_chat(checkpoint: Path) -> TorchChatSession:
    """Load a checkpoint folder. Raises UserError when it is none, or its base model is missing."""
    import torch
    from transformers import AutoTokenizer

    if not checkpoint.is_dir():
        raise UserError(f"checkpoint folder {checkpoint} does not exist")
    quiet_libraries()
    network = load_checkpoint(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"the tokenizer in {checkpoint} can't be loaded: {error}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TorchChatSession(network.to(device).eval(), tokenizer)


def load_checkpoint(checkpoint: Path) -> PreTrainedModel:
    """The model of a checkpoint folder, an adapter's with its update added to the base model. Raises UserError."""
    adapter_config = checkpoint / _ADAPTER_CONFIG
    if adapter_config.is_file():
        return _adapted(checkpoint, json.loads(adapter_config.read_text(encoding="utf-8")))
    return _whole(checkpoint)


def _whole(checkpoint: Path) -> PreTrainedModel:
    source = resolve_source(str(checkpoint.absolute()))
    return load_network(source)


def _adapted(checkpoint: Path, config: Mapping[str, Any]) -> PreTrainedModel:
    """The base model with the adapter's update added to its weights."""
    from peft import PeftModel

    base: ModelSource = resolve_source(str(config["base_model_name_or_path"]))
    if config.get("task_type") == "SEQ_CLS":
        raise UserError(f"{checkpoint} is the adapter of a reward model, which scores answers and writes none")
    network = load_network(base, revision=config.get("revision"))
    require_base(network, checkpoint, base.name)
    merged: PreTrainedModel = PeftModel.from_pretrained(network, str(checkpoint)).merge_and_unload()
    return merged
