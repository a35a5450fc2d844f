"""TRL's fine-tuning with the packing that the job names, run as `python trl_sft.py JOB`."""

from __future__ import annotations

from datasets import load_dataset
from step_clock import StepClock, read_job
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train and write the step times."""
    job = read_job()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    config = SFTConfig(
        output_dir=job["output"],
        max_steps=job["steps"],
        per_device_train_batch_size=job["rows"],
        packing=True,
        packing_strategy=job["packing"],
        max_length=job["row_length"],
        model_init_kwargs={"dtype": "float32"},
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=job["model"],
        args=config,
        train_dataset=load_dataset("json", data_files=job["tokens"], split="train").select_columns(
            ["input_ids", "labels"]
        ),
        processing_class=tokenizer,
        callbacks=[StepClock(job, "trl")],
    )
    trainer.train()


if __name__ == "__main__":
    main()
