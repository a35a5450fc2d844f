"""DPO on pairs of token ids."""

from __future__ import annotations

from trl import DPOTrainer

from nexa_hf.trainers.reference import EncodedWithReference


class EncodedDPOTrainer(EncodedWithReference, DPOTrainer):
    """TRL's DPOTrainer on columns prompt_ids, chosen_ids and rejected_ids."""
