"""Time to the first batch of a resumed run: a sampler that seeks against Hugging Face's skipping.

Prepared rows against `accelerate.skip_first_batches`, which Trainer uses; a stream of JSON Lines against
`IterableDataset.skip`. Target: ≤0.05x.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.bench._measure import measure, report

from nexa.recipe.schema import Recipe
from nexa_torch.data.language import LanguageDataModule


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both ways to get to three quarters of the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = options.rows * 3 // 4 // 8
        prepared(folder, options.rows, place, options.rounds)
        streamed(folder, options.rows, options.rounds)


def _recipe(folder: Path, uri: Path, **data: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "method": "pretrain",
            "model": {
                "name": "llama",
                **{"d_model": 64, "n_layers": 1, "n_heads": 2},
                "max_seq_len": 64,
                "tokenizer": "bytes",
            },
            "data": {"remote_uri": str(uri), "local_cache_root": str(folder / "cache"), **data},
            "training": {"microbatch_size_per_gpu": 8, "max_steps": 1 << 30},
        }
    )


def prepared(folder: Path, rows: int, place: int, rounds: int) -> None:
    """Rows of a memory map: microbatch `place` is asked for at once."""
    import datasets
    from accelerate import skip_first_batches
    from torch.utils.data import DataLoader

    tokens = np.random.default_rng(0).integers(0, 256, size=(rows, 64), dtype=np.uint8)
    np.save(folder / "rows.npy", tokens)
    module = LanguageDataModule(_recipe(folder, folder / "rows.npy"))
    module.prepare_data()
    module.setup()
    loader, sampler = module.train_dataloader(0, 1)

    def seek() -> object:
        sampler.select(start=place, total_rows=rows)
        return next(iter(loader))

    table = datasets.Dataset.from_dict({"input_ids": tokens}).with_format("torch")
    peer = DataLoader(table, batch_size=8, shuffle=True)  # type: ignore[arg-type]
    timings = measure(
        {"nexa": seek, "skip_first_batches": lambda: next(iter(skip_first_batches(peer, place)))}, rounds=rounds
    )
    report(f"prepared rows, microbatch {place:,}", timings, candidate="nexa", target="≤0.05x")


def streamed(folder: Path, rows: int, rounds: int) -> None:
    """JSON Lines read in place: the row three quarters through, window records kept."""
    import datasets

    from nexa_torch.data.streaming import StreamedRows

    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 64 + str(i)}) + "\n" for i in range(rows)))
    recipe = _recipe(folder, path, streaming=True, stream_window=4096, packing=False)

    def opened() -> StreamedRows:
        module = LanguageDataModule(recipe)
        module.setup()
        found = module.data.train
        assert isinstance(found, StreamedRows)
        return found

    first = opened()
    per_document = 2
    place = rows * 3 // 4 * per_document
    first.take([place])
    first.close()
    stream = datasets.load_dataset("json", data_files=str(path), split="train", streaming=True)
    timings = measure(
        {
            "nexa": lambda: opened().take([place]),
            "IterableDataset.skip": lambda: next(iter(stream.skip(rows * 3 // 4))),
        },
        rounds=rounds,
    )
    report(f"streamed rows, row {place:,}", timings, candidate="nexa", target="≤0.05x")


if __name__ == "__main__":
    main()
