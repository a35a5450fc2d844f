"""Writes the conformance kit's reference from a plain PyTorch implementation that shares no code with a backend.

    python tests/core/conformance/make_reference.py core/nexa/conformance/reference.json

It reads the kit's weights and conversations, and does the rest itself: tokens and masks from the bytes of the turns,
the Llama forward pass, the loss, clipping, AdamW and the schedule.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nexa.conformance import data, model

WIDTH = model.D_MODEL // model.N_HEADS


def tokens_and_mask(conversation: data.Conversation) -> tuple[list[int], list[bool]]:
    """Bytes of the turns, each ended by the end token; only what the assistant says, and its end, is trained."""
    ids: list[int] = []
    mask: list[bool] = []
    for role, content in conversation:
        head, body = f"{role}:".encode(), content.encode()
        ids += [*head, *body, model.END]
        mask += [False] * len(head) + [role == "assistant"] * (len(body) + 1)
    return ids, mask


def weights() -> dict[str, Tensor]:
    """The kit's weights, ready to train."""
    return {
        name: torch.tensor(model.tensor_values(name).tolist()).reshape(shape).requires_grad_()
        for name, shape in model.tensor_shapes().items()
    }


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm (Zhang & Sennrich 2019)."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + model.NORM_EPS) * weight


def rotate(x: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) on [heads, length, width], the halves of a head rotated against each other."""
    half = WIDTH // 2
    angle = torch.arange(x.shape[1])[:, None] * model.ROPE_BASE ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention(x: Tensor, w: dict[str, Tensor], prefix: str) -> Tensor:
    """Causal attention; each key and value head serves several query heads."""
    length = x.shape[0]

    def heads(name: str, count: int) -> Tensor:
        return (x @ w[f"{prefix}.{name}.weight"].T).view(length, count, WIDTH).transpose(0, 1)

    groups = model.N_HEADS // model.N_KV_HEADS
    query = rotate(heads("q_proj", model.N_HEADS))
    key = rotate(heads("k_proj", model.N_KV_HEADS)).repeat_interleave(groups, 0)
    value = heads("v_proj", model.N_KV_HEADS).repeat_interleave(groups, 0)
    scores = query @ key.transpose(1, 2) / math.sqrt(WIDTH)
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(later, -math.inf).softmax(-1) @ value
    return mixed.transpose(0, 1).reshape(length, model.D_MODEL) @ w[f"{prefix}.o_proj.weight"].T


def logits(ids: list[int], w: dict[str, Tensor]) -> Tensor:
    """[length, vocabulary] of one document."""
    x = w["model.embed_tokens.weight"][torch.tensor(ids)]
    for layer in range(model.N_LAYERS):
        prefix = f"model.layers.{layer}"
        x = x + attention(norm(x, w[f"{prefix}.input_layernorm.weight"]), w, f"{prefix}.self_attn")
        y = norm(x, w[f"{prefix}.post_attention_layernorm.weight"])
        gate, up = y @ w[f"{prefix}.mlp.gate_proj.weight"].T, y @ w[f"{prefix}.mlp.up_proj.weight"].T
        x = x + (functional.silu(gate) * up) @ w[f"{prefix}.mlp.down_proj.weight"].T
    return norm(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T


def mean_loss(w: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the trained tokens of all documents."""
    losses = []
    for conversation in data.CONVERSATIONS:
        ids, mask = tokens_and_mask(conversation)
        each = functional.cross_entropy(logits(ids, w)[:-1], torch.tensor(ids[1:]), reduction="none")
        losses.append(each[torch.tensor(mask[1:])])
    return torch.cat(losses).mean()


def rate(step: int, warmup: int = 0) -> float:
    """The peak is reached with the last warm-up step; a cosine falls from it to the end value after the last step."""
    if step < warmup:
        return data.LR * (step + 1) / warmup
    done = (step - warmup) / (data.STEPS - warmup)
    return data.LR * (data.MIN_LR_RATIO + (1 - data.MIN_LR_RATIO) * 0.5 * (1 + math.cos(math.pi * done)))


def train() -> dict[str, list[float]]:
    """Loss and gradient norm before clipping of each step of AdamW (Loshchilov & Hutter 2019); rates with warm-up."""
    w = weights()
    first = {name: torch.zeros_like(value) for name, value in w.items()}
    second = {name: torch.zeros_like(value) for name, value in w.items()}
    series: dict[str, list[float]] = {"loss": [], "grad_norm": [], "lr": []}
    b1, b2 = data.BETAS
    for step in range(data.STEPS):
        loss = mean_loss(w)
        gradients = dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))
        size = torch.sqrt(sum(gradient.pow(2).sum() for gradient in gradients.values()))
        scale = min(1.0, data.MAX_NORM / size.item())
        for name, value in w.items():
            gradient = gradients[name] * scale
            first[name] = b1 * first[name] + (1 - b1) * gradient
            second[name] = b2 * second[name] + (1 - b2) * gradient.pow(2)
            decayed = value.ndim > 1 and "embed" not in name
            update = (first[name] / (1 - b1 ** (step + 1))) / (
                (second[name] / (1 - b2 ** (step + 1))).sqrt() + data.EPS
            )
            with torch.no_grad():
                if decayed:
                    value.mul_(1 - rate(step) * data.WEIGHT_DECAY)
                value.sub_(rate(step) * update)
        for name, number in (("loss", loss.item()), ("grad_norm", size.item()), ("lr", rate(step, data.WARMUP))):
            series[name].append(number)
    return series


def reference() -> dict[str, Any]:
    """Everything the kit compares with, computed in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        series = train()
    finally:
        torch.set_default_dtype(torch.float32)
    documents = [tokens_and_mask(conversation) for conversation in data.CONVERSATIONS]
    return {
        "documents": [{"tokens": ids, "trained": [int(on) for on in mask]} for ids, mask in documents],
        **{name: [float(f"{number:.10g}") for number in numbers] for name, numbers in series.items()},
    }


def render(document: dict[str, Any]) -> str:
    """JSON with each list of numbers on a line."""
    rows = ",\n".join("  " + json.dumps(row) for row in document["documents"])
    lines = [
        f'"documents": [\n{rows}\n ]',
        *(f'"{name}": {json.dumps(document[name])}' for name in ("loss", "grad_norm", "lr")),
    ]
    return "{\n " + ",\n ".join(lines) + "\n}\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(reference()), encoding="utf-8")
