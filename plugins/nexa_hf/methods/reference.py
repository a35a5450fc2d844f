"""The model that DPO, KTO and GRPO hold the trained one to: how it is found and loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nexa.errors import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nexa.recipe.schema import Recipe
    from nexa_hf.methods.base import Job


def holds_reference(recipe: Recipe) -> bool:
    """Whether a second model stands in memory while the recipe trains."""
    preference = recipe.preference
    if recipe.method in ("dpo", "kto"):
        apart = preference.reference_model is not None or recipe.adapter is None
        return apart and not preference.precompute_reference
    return recipe.method == "grpo" and recipe.rollouts.kl_beta > 0 and recipe.adapter is None


def check_reference(recipe: Recipe) -> Iterator[Problem]:
    """A problem where the reference model can't be found."""
    from nexa_torch.sources import resolve_source

    name = recipe.preference.reference_model
    if name is None:
        return
    try:
        source = resolve_source(name)
    except UserError as error:
        yield Problem(path="preference.reference_model", message=error.message, hint=error.hint)
        return
    if source.kind == "architecture":
        yield Problem(
            path="preference.reference_model",
            message=f"{name} is an architecture with random weights, and no reference",
            hint="give a folder, a GGUF file, a hub id, or pkg:PACKAGE/FILE",
        )


def reference_keywords(job: Job) -> Mapping[str, Any]:
    """The trainer's keyword arguments for the reference of DPO and KTO."""
    preference = job.recipe.preference
    return {
        "ref_model": load_reference(job, preference.reference_model),
        "keep_reference": not preference.precompute_reference,
    }


def load_reference(job: Job, name: str | None) -> PreTrainedModel | None:
    """The reference model on the CPU in fp32; None where it is the trained model without its adapter.

    name: the model, or None for the recipe's own as it is before training. It is loaded, not copied from the
    trained one, since that may be resumed. Raises UserError where it can't be loaded or has other tokens.
    """
    from nexa_torch.models import load_model

    if name is None and job.model.adapter is not None:
        return None
    recipe = job.recipe
    section = recipe.model if name is None else recipe.model.model_copy(update={"name": name, "revision": None})
    reference = load_model(section, job.data.tokenizer, row_length=job.data.row_length, seed=recipe.training.seed)
    if reference.vocabulary != job.model.vocabulary:
        raise UserError(
            f"preference.reference_model {name!r} knows {reference.vocabulary} tokens, the model "
            f"{recipe.model.name!r} {job.model.vocabulary}",
            hint="both must have one tokenizer",
        )
    network: PreTrainedModel = reference.network
    return network.eval().requires_grad_(False)
