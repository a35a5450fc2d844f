"""Preference data in Axolotl's words: texts that TRL, inside Axolotl, encodes to the same token ids.

Imports nothing heavy before it is asked for rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexa.backend import Preview
    from nexa.recipe.schema import Recipe
    from nexa_hf.preference_data import PreferenceRows, Tokens
    from nexa_torch.data.sources import Source

METHODS = ("dpo", "kto", "orpo")
"""Methods of preference that Axolotl trains."""
USERS: Mapping[str, tuple[str, ...]] = {
    "beta": METHODS,
    "loss_type": ("dpo",),
    "label_smoothing": ("dpo",),
    "precompute_reference": ("dpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "reference_model": (),
    "center_rewards": (),
}
"""The methods that heed each field of the recipe's section `preference`."""


@dataclass(frozen=True, kw_only=True)
class TextRows:
    """Rows for Axolotl, and what is known of them."""

    tokenizer: Any
    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]] | None
    row_length: int
    source: Source
    warnings: list[str]


def configuration(recipe: Recipe) -> dict[str, Any]:
    """Axolotl's keys for a method of preference; empty for another method."""
    section = recipe.preference
    if recipe.method == "dpo":
        if section.loss_type == "ipo":
            return {"rl": "ipo", "rl_beta": section.beta, "precompute_ref_log_probs": section.precompute_reference}
        return {
            "rl": "dpo",
            "rl_beta": section.beta,
            "dpo_loss_type": [section.loss_type],
            "dpo_label_smoothing": section.label_smoothing,
            "precompute_ref_log_probs": section.precompute_reference,
        }
    if recipe.method == "kto":
        weights = {
            "kto_desirable_weight": section.desirable_weight,
            "kto_undesirable_weight": section.undesirable_weight,
        }
        return {"rl": "kto", "rl_beta": section.beta, **weights}
    return {"rl": "orpo", "orpo_alpha": section.beta} if recipe.method == "orpo" else {}


def text_rows(recipe: Recipe) -> TextRows:
    """Read and check the recipe's preferences as the backend `hf` does. Raises DataError."""
    rows = _loader(recipe)(recipe, lambda phase, done, total: None)
    held_out = list(_texts(rows, rows.held_out)) if rows.held_out is not None else None
    return TextRows(
        tokenizer=rows.tokenizer,
        train=list(_texts(rows, rows.train)),
        held_out=held_out,
        row_length=rows.row_length,
        source=rows.source,
        warnings=rows.warnings,
    )


def preview_preferences(recipe: Recipe) -> Preview:
    """The first examples. Raises DataError."""
    from nexa_hf.preference_preview import preview_examples

    return preview_examples(recipe, _loader(recipe))


def _loader(recipe: Recipe) -> Callable[..., PreferenceRows]:
    if recipe.method == "kto":
        from nexa_hf.methods.kto import load_judged

        return load_judged
    from nexa_hf.methods.dpo import load_pairs

    return load_pairs


def _texts(rows: PreferenceRows, examples: list[Tokens]) -> Iterator[dict[str, Any]]:
    """Prompts and answers as text; each answer ends with the token that TRL would end it with."""
    end = rows.tokenizer.eos_token_id

    def text(ids: list[int]) -> str:
        return str(rows.tokenizer.decode(ids, skip_special_tokens=False))

    for row in examples:
        answers = [ids[: len(ids) - ids[::-1].index(end)] if end in ids else ids for ids in row.answers]
        if len(answers) == 1:
            yield {"prompt": text(row.prompt), "completion": text(answers[0]), "label": bool(row.example.good)}
        else:
            yield {"prompt": text(row.prompt), "chosen": text(answers[0]), "rejected": text(answers[1])}
