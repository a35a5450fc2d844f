"""GRPO with a reference model that is given, an order of prompts that a resumed run keeps, and a count of tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from trl import GRPOTrainer
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import RepeatSampler, add_fused_lm_head

from nexa_hf.trainers.reference import drop_copied_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl import GRPOConfig


class ReferencedGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer; `ref_model` is what the divergence is measured from, None for a model with an adapter.

    TRL would load it from where the model's configuration says that the model came from.
    """

    def __init__(self, *, args: GRPOConfig, ref_model: PreTrainedModel | None = None, **arguments: Any) -> None:
        without = copy.copy(args)
        if ref_model is not None:
            # Without a divergence to measure, TRL loads no model of its own.
            without.beta = 0.0
        super().__init__(args=without, **arguments)
        self.args.beta = self.beta = args.beta
        drop_copied_adapter(self.accelerator.unwrap_model(self.model))
        if ref_model is not None:
            self.ref_model = self._prepared(ref_model)

    def _prepared(self, reference: PreTrainedModel) -> Any:
        """The reference model as TRL prepares one."""
        cast = self.args.cast_lm_head_to_fp32
        add_fused_lm_head(reference, temperature=self.temperature, cast_lm_head_to_fp32=cast)
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(reference, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(reference, self.accelerator)
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _get_train_sampler(self, dataset: Any = None) -> RepeatSampler:
        sampler = super()._get_train_sampler(dataset)
        return _EpochSampler(**{name: getattr(sampler, name) for name in _SETTINGS})

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        """TRL's loss; answers are counted here, since the data holds prompts alone."""
        if self.model.training:
            self.session.meter.add([inputs])
        return super().compute_loss(model, inputs, *arguments, **keywords)


_SETTINGS = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")


class _EpochSampler(RepeatSampler):
    """TRL's sampler, which gives a pass over the data its own order also in a run that begins with that pass."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._epoch = self._drawn = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next, from 0; transformers does."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """The prompts' places; one permutation is drawn for each pass, those of passes left out too."""
        if self.shuffle:
            if self._epoch < self._drawn:
                self.generator.manual_seed(self.seed)
                self._drawn = 0
            while self._drawn < self._epoch:
                torch.randperm(self.num_samples, generator=self.generator)
                self._drawn += 1
            self._drawn += 1
        return super().__iter__()
