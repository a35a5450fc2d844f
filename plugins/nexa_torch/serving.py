"""A checkpoint that continues token sequences and tells their probabilities, for `nexa serve`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nexa.errors import UserError
from nexa.generator import Sampling, ScoredToken, TextGenerator
from nexa.recipe.sections.model import ModelSection
from nexa_torch.chat import open_chat
from nexa_torch.data.byte_tokenizer import byte_vocabulary
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.generation import chat_prompt, chat_stop_tokens, text_prompt
from nexa_torch.models import load_network, quiet_libraries, stop_tokens
from nexa_torch.sources import resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TorchGenerator(TextGenerator):
    """A transformers model with its tokenizer, one sequence at a time, with a key/value cache."""

    def __init__(self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._ends = {True: chat_stop_tokens(network, tokenizer), False: stop_tokens(network, tokenizer)}
        takes = inspect.signature(network.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._special = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        byte_level = type(getattr(backend, "decoder", None)).__name__ == "ByteLevel"
        self._bytes = byte_vocabulary() if byte_level else None

    @property
    def context_length(self) -> int | None:
        """Positions the model was made for."""
        limit = getattr(self._network.config, "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None

    @property
    def vocabulary(self) -> int:
        """Rows of the input embedding."""
        return int(self._network.get_input_embeddings().weight.shape[0])

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of plain text, never empty."""
        return text_prompt(self._tokenizer, text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]:
        """Token ids of a conversation by the tokenizer's chat template. Raises UserError where it refuses one."""
        if not self._tokenizer.chat_template:
            raise UserError("this checkpoint's tokenizer has no chat template; use completions")
        from jinja2 import TemplateError

        try:
            return chat_prompt(self._tokenizer, messages)
        except TemplateError as error:
            raise UserError(f"the chat template refuses these messages: {error}") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token: exact for byte-level tokenizers, of others the text's."""
        if token_id in self._special:
            return self._special[token_id].encode()
        if self._bytes is None:
            return str(self._tokenizer.decode([token_id])).encode()
        piece = self._tokenizer.convert_ids_to_tokens(token_id) or ""
        return bytes(self._bytes[character] for character in piece if character in self._bytes)

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, *, chat: bool, should_stop: Callable[[], bool]
    ) -> Iterator[ScoredToken]:
        """Yield tokens; see `nexa.generator.TextGenerator.generate`."""
        generator = torch.Generator(device="cpu")
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
        ends = self._ends[chat]
        tokens = torch.tensor([list(prompt)], device=self._network.device)
        cache: Any = None
        for _ in range(sampling.max_tokens):
            if should_stop():
                return
            with torch.inference_mode():
                output = self._network(input_ids=tokens, past_key_values=cache, use_cache=True, **self._last_only)
                logits = output.logits[0, -1].float().cpu()
                token = _choose(logits, sampling, generator)
            if token in ends:
                return
            yield _scored(token, logits, sampling.top_logprobs)
            cache = output.past_key_values
            tokens = torch.tensor([[token]], device=self._network.device)

    def score(self, prompt: Sequence[int], top: int) -> Sequence[ScoredToken]:
        """The prompt's tokens with their log-probabilities, by one forward pass."""
        with torch.inference_mode():
            logits = self._network(input_ids=torch.tensor([list(prompt)], device=self._network.device)).logits[0]
        rest = [_scored(token, logits[place].float().cpu(), top) for place, token in enumerate(prompt[1:])]
        return [ScoredToken(id=prompt[0]), *rest]


def open_generator(checkpoint: Path) -> TorchGenerator:
    """Load a checkpoint folder, an adapter with its base model, or a GGUF file, also `pkg:PACKAGE/FILE`.

    Raises UserError as `open_chat` does.
    """
    if checkpoint.is_dir():
        session = open_chat(checkpoint)
        return TorchGenerator(session.network, session.tokenizer)
    quiet_libraries()
    source = resolve_source(str(checkpoint))
    network = load_network(source).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return TorchGenerator(network, load_tokenizer(ModelSection(name=str(checkpoint))))


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    if sampling.temperature <= 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.double() / sampling.temperature, -1)
    if sampling.top_p < 1:
        ordered, places = probabilities.sort(descending=True)
        # The likeliest token always stays, however small the share.
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = probabilities.index_fill(0, places[beyond], 0.0)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _scored(token: int, logits: Tensor, top: int | None) -> ScoredToken:
    if top is None:
        return ScoredToken(id=token)
    logprobs = torch.log_softmax(logits, -1)
    best = logprobs.topk(min(top, len(logprobs)))
    likeliest = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return ScoredToken(id=token, logprob=float(logprobs[token]), top=likeliest)
