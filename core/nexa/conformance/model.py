"""The kit's model: a Llama of 30,000 weights in a folder, made from a formula with the standard library.

Weight `i` of the tensor `name` is amplitude × (2u − 1) with u = w ÷ 2²⁴, where w is the upper 24 bits of
big-endian 32-bit word number i of the stream SHA-256(name:0) SHA-256(name:1) …; a norm's weights are 1 plus that.
Amplitudes are powers of two, so that every weight is exact in fp32.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

VOCABULARY = 258
END, PAD = 256, 257
END_TEXT, PAD_TEXT = "<|end|>", "<|pad|>"
D_MODEL, D_FF, N_LAYERS, N_HEADS, N_KV_HEADS = 32, 64, 2, 4, 2
MAX_SEQ_LEN = 64
ROPE_BASE, NORM_EPS = 10000.0, 1e-5
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""Every turn is its role, a colon, its content and the end token; the assistant's content and end are trained."""

_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": D_MODEL,
    "intermediate_size": D_FF,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": N_KV_HEADS,
    "max_position_embeddings": MAX_SEQ_LEN,
    "rope_theta": ROPE_BASE,
    "rms_norm_eps": NORM_EPS,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": PAD,
    "torch_dtype": "float32",
}


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Shape by name of every tensor in the model's file, in its order."""
    width = D_MODEL * N_KV_HEADS // N_HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, D_MODEL)}
    for layer in range(N_LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (D_MODEL,),
            f"{prefix}.self_attn.q_proj.weight": (D_MODEL, D_MODEL),
            f"{prefix}.self_attn.k_proj.weight": (width, D_MODEL),
            f"{prefix}.self_attn.v_proj.weight": (width, D_MODEL),
            f"{prefix}.self_attn.o_proj.weight": (D_MODEL, D_MODEL),
            f"{prefix}.post_attention_layernorm.weight": (D_MODEL,),
            f"{prefix}.mlp.gate_proj.weight": (D_FF, D_MODEL),
            f"{prefix}.mlp.up_proj.weight": (D_FF, D_MODEL),
            f"{prefix}.mlp.down_proj.weight": (D_MODEL, D_FF),
        }
    return shapes | {"model.norm.weight": (D_MODEL,)}


def tensor_values(name: str) -> array[float]:
    """The weights of one tensor in row-major order, as 32-bit floats."""
    shape = tensor_shapes()[name]
    norm = len(shape) == 1
    amplitude = 0.125 if norm else 0.5 if "embed" in name else 0.25
    uniform = _uniform(name)
    return array("f", ((1.0 if norm else 0.0) + amplitude * next(uniform) for _ in range(math.prod(shape))))


def write_model(folder: Path) -> Path:
    """Write the model with its tokenizer (a token a byte) and chat template; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", _CONFIG)
    _write_json(folder / "tokenizer.json", _tokenizer())
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_TEXT,
            "pad_token": PAD_TEXT,
            "model_max_length": MAX_SEQ_LEN,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    (folder / "model.safetensors").write_bytes(_safetensors())
    return folder


def _uniform(name: str) -> Iterator[float]:
    """Numbers from −1 to 1 that the tensor's name alone decides."""
    block = 0
    while True:
        digest = hashlib.sha256(f"{name}:{block}".encode()).digest()
        for word in struct.unpack(">8I", digest):
            yield 2.0 * ((word >> 8) / 2**24) - 1.0
        block += 1


def _safetensors() -> bytes:
    """The model file: length of the header, header, tensors one after the other in little-endian fp32."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    parts = []
    start = 0
    for name, shape in tensor_shapes().items():
        values = tensor_values(name)
        data = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, start + len(data)]}
        start += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def _tokenizer() -> dict[str, object]:
    """A tokenizer without merges: token `b` is byte `b`, and two special tokens follow."""
    special = [
        {"id": number, "content": text, "special": True, "normalized": False, "single_word": False}
        | {"lstrip": False, "rstrip": False}
        for number, text in ((END, END_TEXT), (PAD, PAD_TEXT))
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    vocabulary = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    model = {"type": "BPE", "vocab": vocabulary | {END_TEXT: END, PAD_TEXT: PAD}, "merges": []}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": model,
    }


def _byte_symbols() -> list[str]:
    """The printable character that byte-level BPE writes for each byte (Radford et al. 2019)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _write_json(path: Path, document: dict[str, object]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
