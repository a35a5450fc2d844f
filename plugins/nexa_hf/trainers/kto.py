"""KTO on token ids of judged answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl import KTOTrainer

from nexa_hf.trainers.reference import EncodedWithReference

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import KTOConfig


class EncodedKTOTrainer(EncodedWithReference, KTOTrainer):
    """TRL's KTOTrainer on columns prompt_ids, completion_ids and label."""

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: KTOConfig, dataset_name: str) -> Dataset:
        """Give each row of a microbatch the answer of the one before, from which the divergence is estimated."""
        return dataset.map(_mismatched, batched=True, batch_size=args.per_device_train_batch_size)


def _mismatched(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    answers = rows["completion_ids"]
    return {"KL_completion_ids": [answers[-1], *answers[:-1]]}
