"""Run by Axolotl's interpreter: its KD collator and trainer's loss on exported rows, for students in folders.

    python axolotl_kd.py ROWS.jsonl STUDENT...

Prints JSON: for each student the loss over all rows, and that with every target one position later.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from axolotl.integrations.kd.collator import DataCollatorForKD
from axolotl.integrations.kd.kernels.liger import LigerFusedLinearKLTopKLogprobLoss
from axolotl.integrations.kd.trainer import AxolotlKDTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer

TARGETS = ("target_token_ids", "target_logprobs", "target_mask")


def main(path, *students):
    with Path(path).open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    # Only the divergence, as it is recorded; torch.compile would need a compiler.
    loss = LigerFusedLinearKLTopKLogprobLoss(
        0.0, 1.0, 1.0, 0.0, compiled=False, compute_ce_loss=False, normalize_topk=False
    )
    trainer = SimpleNamespace(_kd_loss_fn=loss)
    found = []
    for student in students:
        model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
        collate = DataCollatorForKD(AutoTokenizer.from_pretrained(student))
        batch = dict(collate([{**row} for row in rows]))
        later = {**batch, **{name: batch[name].roll(1, dims=1) for name in TARGETS}}
        own, shifted = (
            float(AxolotlKDTrainer.compute_loss(trainer, model, dict(each)).detach()) for each in (batch, later)
        )
        found.append({"loss": own, "shifted": shifted})
    print(json.dumps(found))


main(*sys.argv[1:])
