"""What the proofs of arithmetic share: small runs, their losses and gradients, and how far two may be apart.

A run here is the engine's own, from recipe to last step, on 20 documents (or rows) in steps of 8: two whole
steps and a last one of 4. The optimizer is plain SGD, so that a difference in a gradient stays of its own size;
an optimizer that divides by the gradient's own size would blow up rounding noise where gradients cancel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from nexa.backend import RunState
from nexa.plugins import get_host
from nexa.recipe.schema import Recipe
from nexa_torch.callbacks.base import Callback, CallbackContext
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.distributed.ranks import Ranks
from nexa_torch.engine.engine import TrainingEngine
from nexa_torch.models import load_model, save_model
from nexa_torch.tasks.registry import load_data_module, load_task

DOCUMENTS, BATCH = 20, 8

LOSS_TOLERANCE = 5e-6
"""Relative. fp32 rounds to 6e-8; sums of a few thousand terms in another order differ by some tens of that."""
GRADIENT_TOLERANCE = 2e-5
"""Norm of the difference ÷ norm of the gradient, tensor by tensor. Larger than the loss's: a gradient is what is
left of terms that cancel, and each step starts from weights that the steps before have rounded differently."""
SMALL = 1e-4
"""A tensor whose gradient is below this share of the whole gradient's norm is compared with that share: an
attention key's bias, say, has a gradient of zero, and all that is computed of it is rounding."""

METHODS = ("pretrain", "sft", "lora", "distill", "online", "regression")
"""What is proven: the recipe's methods, `sft` with an adapter, `distill` from records and with a teacher."""
LANGUAGE_METHODS = METHODS[:5]
PLAIN_METHODS = METHODS[:3]
"""Those whose loss is the cross-entropy alone."""
_METHOD_OF = {"lora": "sft", "online": "distill"}


@dataclass
class Trace:
    """What a run computed: for each step the mean loss, and the gradient of every trained parameter."""

    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)

    def norms(self) -> list[float]:
        """Norm of the whole gradient at each step."""
        return [float(torch.stack([g.norm() for g in step.values()]).norm()) for step in self.gradients]


class Recorder(Callback):
    """Keeps what a run computed. A sharded gradient is put together, by all ranks."""

    def __init__(self) -> None:
        self.trace = Trace()

    def on_train_begin(self, ctx: CallbackContext) -> None:
        """Look at gradients just before the optimizer uses them."""
        names = {id(parameter): name for name, parameter in ctx.model.named_parameters() if parameter.requires_grad}

        def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.trace.gradients.append({names[id(p)]: _whole(p.grad).clone() for p in parameters})

        ctx.optimizer.register_step_pre_hook(keep)

    def on_step_end(self, ctx: CallbackContext) -> None:
        """Take the loss of the whole batch."""
        self.trace.losses.append(ctx.loss)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def write_documents(folder: Path) -> dict[str, Path]:
    """Conversations and texts of very different lengths, so that no two microbatches weigh the same."""
    chats, texts = folder / "chats.jsonl", folder / "texts.jsonl"
    with chats.open("w", encoding="utf-8") as chat_file, texts.open("w", encoding="utf-8") as text_file:
        for number in range(DOCUMENTS):
            answer = " ".join(str(n * number) for n in range(1 + number * 7 % 11))
            turns = [{"role": "user", "content": f"Tell {number}."}, {"role": "assistant", "content": answer}]
            chat_file.write(json.dumps({"messages": turns}) + "\n")
            text_file.write(json.dumps({"text": f"{answer}, said number {number}."}) + "\n")
    return dict.fromkeys(("sft", "lora", "distill", "online"), chats) | {"pretrain": texts}


def _distillation(method: str, folder: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """The `distill` section of a student whose teacher has other weights, made once and recorded where it has to be."""
    teacher, records = folder / "teacher", folder / "records"
    recipe = Recipe.from_document(dict(document))
    if not teacher.is_dir():
        tokenizer = load_tokenizer(recipe.model)
        model = load_model(recipe.model, tokenizer, row_length=160, seed=99)
        save_model(model, tokenizer, teacher, model.network.state_dict())
    section = {"teacher": str(teacher), "temperature": 2.0}
    if method == "online":
        return {**section, "mode": "online"}
    if not records.is_dir():
        capture = Recipe.from_document({**document, "distill": section})
        get_host().create("distiller", "logits").capture(capture, records)
    return {**section, "dataset": str(records)}


def recipe_document(method: str, folder: Path, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """One pass of a method over the documents of `write_documents`, unpacked, 8 rows at once; `sections` over it."""
    document: dict[str, Any] = {
        "method": _METHOD_OF.get(method, method),
        "training": {"epochs": 1, "microbatch_size_per_gpu": BATCH, "max_grad_norm": None},
        "optimizer": {"name": "sgd", "lr": 0.1, "scheduler": "constant"},
        "cluster": {"threads_per_process": 1},
        "torch": {"cpu_matmul": "native"},
    }
    if method == "regression":
        document |= {
            "model": {"name": "mlp"},
            "data": {"remote_uri": "synthetic:regression"},
            "regression": {"n_samples": DOCUMENTS, "n_features": 5, "hidden_sizes": [16]},
        }
    else:
        sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 160}
        document |= {
            "model": {"name": "llama", "tokenizer": "bytes", **sizes},
            "data": {
                "remote_uri": str(write_documents(folder)[method]),
                "local_cache_root": str(folder / "cache"),
                "packing": False,
            },
        }
    if document["method"] == "distill":
        document["distill"] = _distillation(method, folder, document)
    if method == "lora":
        document["adapter"] = {"rank": 4, "alpha": 8.0}
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values}
    return document


def run(document: Mapping[str, Any], *, ranks: Ranks | None = None, plain_loss: bool = False) -> Trace:
    """Train a recipe to its end.

    ranks: the group that it is one rank of. plain_loss: let torch's cross-entropy over the whole logits of
    the model's own forward pass stand for the fused loss.
    """
    recipe = Recipe.from_document(dict(document))
    recorder = Recorder()
    task = load_task(recipe, load_data_module(recipe))
    if plain_loss:
        task.build_criterion = PlainLoss  # type: ignore[method-assign]
    callbacks: Iterable[Callback] = [recorder, Unadapted()] if recipe.adapter else [recorder]
    place = (ranks.rank, ranks.world_size) if ranks else (0, 1)
    engine = TrainingEngine(recipe, task, *place, callbacks=callbacks, ranks=ranks)
    assert engine.run().state is RunState.COMPLETED
    return recorder.trace


class PlainLoss(nn.Module):
    """Cross-entropy of a language model's logits as torch computes it."""

    def forward(self, language: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean over the labelled positions; labels stand where the token that they follow stands."""
        logits = language.network(
            input_ids=batch["input_ids"], position_ids=batch["positions"], use_cache=False
        ).logits.float()
        total = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, reduction="sum"
        )
        return total / max(1, int(batch["trained_tokens"]))


class Unadapted(Callback):
    """Gives a fresh adapter's second matrix values: while it is zero the first one has no gradient."""

    def on_train_begin(self, ctx: CallbackContext) -> None:
        """The same numbers for every way to run, also where each rank holds a part of them."""
        for number, (name, parameter) in enumerate(ctx.model.named_parameters()):
            if "lora_B" not in name:
                continue
            torch.manual_seed(number)
            values = torch.randn(parameter.shape) * 0.05
            if isinstance(parameter, DTensor):
                values = distribute_tensor(values, parameter.device_mesh, parameter.placements)
            with torch.no_grad():
                parameter.copy_(values)


def assert_same(found: Trace, expected: Trace) -> None:
    """Losses and gradients of every step agree within the tolerances above."""
    assert len(found.losses) == len(expected.losses) > 0
    for step, (one, other) in enumerate(zip(found.losses, expected.losses, strict=True), 1):
        assert abs(one - other) <= LOSS_TOLERANCE * abs(other), f"loss of step {step}: {one} and {other}"
    norms = expected.norms()
    assert min(norms) > 0
    for step, (one, other) in enumerate(zip(found.gradients, expected.gradients, strict=True), 1):
        assert one.keys() == other.keys()
        for name, gradient in other.items():
            size = max(float(gradient.norm()), SMALL * norms[step - 1])
            error = float((one[name] - gradient).norm()) / size
            assert error <= GRADIENT_TOLERANCE, f"gradient of {name} at step {step} is off by {error:.1e}"
