"""The built-in tokenizer "bytes": one token a byte, so that any model can be trained without a download."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{START}' + message['role'] + '\\n' }}}}"
    "{% if message['role'] == 'assistant' %}"
    f"{{% generation %}}{{{{ message['content'] + '{END}' }}}}{{% endgeneration %}}"
    "{% else %}"
    f"{{{{ message['content'] + '{END}' }}}}"
    "{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\\n' }}}}{{% endif %}}"
)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Tokenizer whose ids 0 to 255 are the bytes of UTF-8, followed by padding and the two ChatML markers.

    An ordinary fast tokenizer: saved with a checkpoint, it loads in plain `AutoTokenizer`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(vocab=byte_vocabulary(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, START, END])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def byte_vocabulary() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE, mapped to the byte.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, take characters from U+0100.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (byte for byte in range(256) if byte not in printable)
    characters = {chr(256 + i): byte for i, byte in enumerate(others)}
    return {**{chr(byte): byte for byte in printable}, **characters}
