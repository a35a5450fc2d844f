"""Text from a model, token by token, with a key/value cache; used for samples and for chat."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from nexa.errors import UserError
from nexa_torch.models import stop_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"


def generate_tokens(
    network: PreTrainedModel,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    stop_ids: frozenset[int],
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Yield token ids that continue `prompt`, until a stop id, `max_new_tokens`, or `should_stop`.

    temperature 0 takes the likeliest token. The global random state is left as it is. Stops at the
    longest sequence the model was made for; raises UserError for a prompt beyond that.
    """
    limit = getattr(network.config, "max_position_embeddings", None)
    if limit and len(prompt) >= limit:
        raise UserError(f"the prompt has {len(prompt)} tokens and the model takes {limit}", hint="start afresh: /reset")
    budget = min(max_new_tokens, limit - len(prompt)) if limit else max_new_tokens
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(network.forward).parameters else {}
    generator = torch.Generator(device=network.device)
    generator.seed()
    tokens = torch.tensor([list(prompt)], device=network.device)
    cache = None
    for _ in range(budget):
        if should_stop():
            return
        # Buffers that a sharded model fills here are filled again in training, which inference mode forbids.
        with torch.no_grad():
            output = network(input_ids=tokens, past_key_values=cache, use_cache=True, **last_only)
            logits = output.logits[0, -1].float()
            if temperature <= 0:
                token = int(logits.argmax())
            else:
                token = int(torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator))
        if token in stop_ids:
            return
        yield token
        cache = output.past_key_values
        tokens = torch.tensor([[token]], device=network.device)


def decode_stream(tokenizer: PreTrainedTokenizerBase, tokens: Iterator[int]) -> Iterator[str]:
    """Yield text as soon as it is whole: a character split over tokens waits for its last byte."""
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if text.endswith(_REPLACEMENT):
            continue
        if len(text) > len(shown):
            yield text[len(shown) :]
        shown = text
    text = tokenizer.decode(ids, skip_special_tokens=True)
    if len(text) > len(shown):
        yield text[len(shown) :]


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation up to where the assistant's answer begins."""
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def text_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of plain text to continue, never empty."""
    ids = list(tokenizer(text)["input_ids"])
    if ids and ids[-1] == tokenizer.eos_token_id and len(ids) > 1:
        ids.pop()
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return ids or [start or 0]


def chat_stop_tokens(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Token ids that end an answer: end of sequence, and the token the chat template closes a turn with."""
    ids = set(stop_tokens(network, tokenizer))
    if tokenizer.chat_template:
        marker = "\u2400nexa\u2400"
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": marker}]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
        closing = tokenizer(rendered.rpartition(marker)[2].strip(), add_special_tokens=False)["input_ids"]
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        if closing and closing[0] in special:
            ids.add(closing[0])
    return frozenset(ids)
