"""The recipe section `preference`: training on which of two answers is better, or whether one is good."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nexa.recipe.sections.base import Section


class PreferenceSection(Section):
    """How a model is trained on preferences: methods dpo, kto, orpo and reward."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """dpo, kto: how strongly the model is held to the reference model. orpo: weight of the odds-ratio term."""
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """dpo: sigmoid is DPO's own loss, hinge that of SLiC, ipo that of IPO, robust assumes that a share
    `label_smoothing` of the pairs is labelled the wrong way round."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """dpo with sigmoid or robust loss: share of pairs whose label is taken to be wrong."""
    desirable_weight: Annotated[float, Field(ge=0)] = 1.0
    """kto: weight of good answers in the loss."""
    undesirable_weight: Annotated[float, Field(ge=0)] = 1.0
    """kto: weight of bad answers in the loss."""
    reference_model: str | None = None
    """dpo, kto: model that the trained one is held to, in the forms of model.name. Default: the model as it
    is before training; with an adapter, the model without it."""
    precompute_reference: bool = False
    """dpo, kto: score the data with the reference model once before training, so that it need not stay in memory."""
    center_rewards: Annotated[float, Field(gt=0)] | None = None
    """reward: weight of a term that keeps the mean of both scores near 0. Default: no such term."""

    @model_validator(mode="after")
    def _smoothing_fits(self) -> Self:
        if self.label_smoothing and self.loss_type not in ("sigmoid", "robust"):
            raise ValueError(f"label_smoothing is for the losses sigmoid and robust, not {self.loss_type}")
        return self
