"""Axolotl's fine-tuning with sample packing, run as `python axolotl_sft.py JOB`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from axolotl.cli.train import do_cli
from axolotl.integrations.base import BasePlugin
from step_clock import StepClock, read_job


class ClockPlugin(BasePlugin):
    """Adds the step clock; Axolotl loads it by name."""

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[StepClock]:
        """The callbacks to train with."""
        return [StepClock(read_job(), "axolotl")]


def main() -> None:
    """Train; the plugin writes the step times."""
    job = read_job()
    config = {
        "base_model": job["model"],
        "plugins": ["axolotl_sft.ClockPlugin"],
        # Without a type the file holds tokens.
        "datasets": [{"path": job["tokens"], "ds_type": "json", "type": None}],
        "dataset_prepared_path": str(Path(job["folder"]) / "axolotl-data"),
        "val_set_size": 0,
        "sequence_len": job["row_length"],
        "sample_packing": True,
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "sdp_attention": True,
        "flash_attention": False,
        "gradient_checkpointing": False,
        "output_dir": job["output"],
        "max_steps": job["steps"],
        "micro_batch_size": job["rows"],
        "gradient_accumulation_steps": 1,
        "learning_rate": job["learning_rate"],
        "lr_scheduler": "constant",
        "optimizer": "adamw_torch_fused",
        "logging_steps": 1,
        "save_strategy": "no",
    }
    path = Path(job["folder"]) / "axolotl.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    do_cli(str(path))


if __name__ == "__main__":
    main()
