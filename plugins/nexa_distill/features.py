"""What a student may learn from inside an online teacher: hidden states and attention maps, layers matched evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nexa.errors import UserError

if TYPE_CHECKING:
    from nexa.recipe.sections.distill import DistillSection
    from nexa_torch.models import LanguageModel

_SMALLEST = 1e-9


class FeatureLoss:
    """Distances of features at the trained positions, each summed over positions and averaged over matched layers.

    options: what both models are to return besides their last hidden state; empty where no feature is asked for.
    """

    def __init__(self, section: DistillSection) -> None:
        self.weights = {"hidden": section.hidden_weight, "attention": section.attention_weight}
        asked = {"output_hidden_states": section.hidden_weight, "output_attentions": section.attention_weight}
        self.options = {name: True for name, weight in asked.items() if weight > 0}

    @classmethod
    def of(cls, section: DistillSection, student: LanguageModel, teacher: LanguageModel) -> FeatureLoss:
        """The loss that a recipe asks for. Raises UserError where the models' shapes don't fit it."""
        loss = cls(section)
        for weight, size, what in (
            ("hidden", "hidden_size", "width"),
            ("attention", "num_attention_heads", "number of attention heads"),
        ):
            ours, theirs = (getattr(model.network.config.get_text_config(), size) for model in (student, teacher))
            if loss.weights[weight] > 0 and ours != theirs:
                raise UserError(
                    f"distill.{weight}_weight compares layers of one {what}; the student's is {ours}, "
                    f"the teacher's {theirs}",
                    hint=f"set distill.{weight}_weight=0, or give the student the teacher's {what}",
                )
        if section.attention_weight > 0:
            # Other kinds of attention never have the maps as a whole.
            for model in (student, teacher):
                model.network.set_attn_implementation("eager")
        return loss

    def __call__(self, ours: Any, theirs: Any, chosen: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Weight and sum over positions of each feature's distance; chosen: flat trained positions."""
        found = {}
        if self.weights["hidden"] > 0:
            found["hidden"] = self.weights["hidden"], _hidden(ours.hidden_states[1:], theirs.hidden_states[1:], chosen)
        if self.weights["attention"] > 0:
            found["attention"] = self.weights["attention"], _attention(ours.attentions, theirs.attentions, chosen)
        return found


def matched(student: int, teacher: int) -> list[int]:
    """The teacher's layer for each of the student's, as evenly as counts allow, the last to the last."""
    return [round((index + 1) * teacher / student) - 1 for index in range(student)]


def _hidden(ours: Any, theirs: Any, chosen: Tensor) -> Tensor:
    """Mean squared distance over width and layers, summed over positions (Jiao et al. 2020, arXiv 1909.10351)."""
    parts = []
    for own, index in zip(ours, matched(len(ours), len(theirs)), strict=True):
        difference = _rows(own, chosen) - _rows(theirs[index], chosen)
        parts.append(difference.float().square().mean(-1).sum())
    return torch.stack(parts).mean()


def _attention(ours: Any, theirs: Any, chosen: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the maps, averaged over heads and layers, summed over positions."""
    parts = []
    for own, index in zip(ours, matched(len(ours), len(theirs)), strict=True):
        p, q = (_rows(maps.transpose(1, 2), chosen).float() for maps in (theirs[index], own))
        log_p, log_q = p.clamp(min=_SMALLEST).log(), q.clamp(min=_SMALLEST).log()
        parts.append((p * (log_p - log_q)).sum(-1).mean(-1).sum())
    return torch.stack(parts).mean()


def _rows(values: Tensor, chosen: Tensor) -> Tensor:
    """What [rows, width, …] holds at flat positions, [n, …]."""
    return values.flatten(0, 1).index_select(0, chosen)
