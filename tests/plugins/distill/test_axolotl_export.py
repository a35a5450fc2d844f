"""Rows exported for Axolotl, read by Axolotl itself."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from teachers import make_teacher

from nexa.testing.recipes import tiny_recipe
from nexa_distill.capture import capture
from nexa_distill.export import export
from nexa_distill.plan import make_plan

PYTHON = os.environ.get("NEXA_AXOLOTL_PYTHON", "")


@pytest.mark.soak
@pytest.mark.skipif(
    not PYTHON, reason="needs Axolotl; type: nexa env create axolotl, and set NEXA_AXOLOTL_PYTHON to its interpreter"
)
def test_axolotls_own_loss_on_exported_rows_is_the_dense_divergence(tmp_path):
    """Its collator and trainer: 0 for the teacher itself, KL for another student, and neither with a shift of one."""
    # Sure enough of itself that what lies outside of the recorded entries is next to nothing.
    teacher = make_teacher(tmp_path / "teacher", spread=40.0)
    recipe = tiny_recipe(
        tmp_path / "recipe",
        {
            "distill.teacher": str(teacher),
            "distill.capture.record": "top_k",
            "distill.capture.head": 192,
            "data.max_documents": 6,
            "data.packing": False,
        },
    )
    capture(make_plan(recipe), tmp_path / "set", processes=1)
    rows = tmp_path / "kd.jsonl"
    export(tmp_path / "set", rows, form="axolotl")
    student = make_teacher(tmp_path / "student", seed=5, spread=2.0)
    script = Path(__file__).with_name("axolotl_kd.py")
    run = subprocess.run([PYTHON, script, rows, teacher, student], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    of_teacher, of_student = json.loads(run.stdout.splitlines()[-1])
    dense = dense_divergence(rows, teacher, student)
    assert abs(of_teacher["loss"]) < 0.01 * dense
    assert of_student["loss"] == pytest.approx(dense, rel=0.01)
    assert of_teacher["shifted"] > 0.5 * dense


@torch.no_grad()
def dense_divergence(rows, teacher, student):
    """KL(teacher ‖ student) over all labelled tokens, by whole logits."""
    from transformers import AutoModelForCausalLM

    p, q = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (teacher, student))
    total = count = 0.0
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        chosen = np.flatnonzero(np.array(row["labels"][1:]) != -100)
        ids = torch.tensor(row["input_ids"])[None]
        log_p, log_q = (model(ids).logits[0, chosen].log_softmax(-1) for model in (p, q))
        total += float((log_p.exp() * (log_p - log_q)).sum())
        count += len(chosen)
    return total / count
