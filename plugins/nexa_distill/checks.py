"""What keeps a student from being trained, found on the launching machine without torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nexa.distilled import find_dataset
from nexa.errors import NexaError, Problem

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe


def find_problems(recipe: Recipe) -> Iterator[Problem]:
    """Every problem of the section `distill` with the PyTorch backend, each with its key."""
    if recipe.distill.mode == "on_policy":
        yield Problem(
            path="distill.mode",
            message="the torch backend writes no text in its steps",
            hint="set backend=hf, or distill.mode to offline or online",
        )
        return
    yield from student_problems(recipe)


def student_problems(recipe: Recipe) -> Iterator[Problem]:
    """Those with any backend."""
    distill = recipe.distill
    if distill.mode == "sequence":
        yield Problem(
            path="distill.mode",
            message="a teacher's text is trained on by method: sft, once `nexa distill text` wrote it",
            hint="set method=sft with that text, or distill.mode to offline, online or on_policy",
        )
        return
    if recipe.data.streaming:
        yield Problem(
            path="data.streaming",
            message="students need rows that are known before the run",
            hint="set data.streaming=false",
        )
    if distill.cross_tokenizer == "uld":
        yield from _of_other_tokens(recipe)
    if distill.student_layers is not None and recipe.adapter is not None:
        yield Problem(
            path="distill.student_layers",
            message="an adapter is saved without the model it changes, and a pruned one lies nowhere",
            hint="leave adapter out, or save the pruned model first and name it in model.name",
        )
    yield from _of_dataset(recipe) if distill.mode == "offline" else _of_teacher(recipe)


def _of_other_tokens(recipe: Recipe) -> Iterator[Problem]:
    """What needs a position of the teacher for each of the student's, or probabilities of the same tokens."""
    for name, default in (("divergence", "forward_kl"), ("hidden_weight", 0.0), ("attention_weight", 0.0)):
        if getattr(recipe.distill, name) != default:
            yield Problem(
                path=f"distill.{name}",
                message="models of other tokens are compared by their sorted probabilities alone",
                hint=f"set distill.{name}={default}, or give both models one tokenizer and leave "
                "distill.cross_tokenizer out",
            )


def _of_dataset(recipe: Recipe) -> Iterator[Problem]:
    if recipe.distill.dataset is None:
        yield Problem(
            path="distill.dataset",
            message="an offline student learns from recorded predictions, and none are named",
            hint="make some with: nexa distill capture RECIPE; or set distill.mode=online",
        )
        return
    if importlib.util.find_spec("numpy") is None:
        return
    from nexa_distill.dataset import read_index

    try:
        _, index = read_index(find_dataset(recipe.distill.dataset, recipe.artifacts.store_uri))
    except NexaError as error:
        yield Problem(path="distill.dataset", message=error.message, hint=error.hint)
        return
    captured = float(index["record"]["temperature"])
    if captured != recipe.distill.temperature:
        yield Problem(
            path="distill.temperature",
            message=f"{recipe.distill.dataset} was captured at {captured:g}: what was left out of a record can't be "
            "reshaped afterwards",
            hint=f"set distill.temperature={captured:g}, or capture again",
        )


def _of_teacher(recipe: Recipe) -> Iterator[Problem]:
    from nexa_torch.architectures import ARCHITECTURES
    from nexa_torch.sources import resolve_source

    name = recipe.distill.teacher or recipe.model.name
    if name in ARCHITECTURES:
        yield Problem(
            path="distill.teacher",
            message=f"{name!r} is an architecture with random weights, which teach nothing",
            hint="set distill.teacher to a folder, a hub id, a GGUF file or pkg:PACKAGE/FILE",
        )
        return
    try:
        resolve_source(name)
    except NexaError as error:
        yield Problem(path="distill.teacher", message=error.message, hint=error.hint)
