"""Where the files of an Axolotl run lie. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = "axolotl"


@dataclass(frozen=True)
class Layout:
    """Places below a run's folder: what Axolotl reads, and what it writes on the way."""

    run_dir: Path

    @property
    def folder(self) -> Path:
        """Everything of Axolotl's."""
        return self.run_dir / FOLDER

    @property
    def config(self) -> Path:
        """The rendered configuration; `axolotl train` takes it as it is."""
        return self.folder / "config.yaml"

    @property
    def training_rows(self) -> Path:
        """Encoded training rows, one JSON object a line."""
        return self.folder / "train.jsonl"

    @property
    def held_out_rows(self) -> Path:
        """Encoded held-out rows."""
        return self.folder / "eval.jsonl"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer the rows were encoded with."""
        return self.folder / "tokenizer"

    @property
    def model(self) -> Path:
        """Weights in safetensors, where the recipe's model is none that Axolotl reads."""
        return self.folder / "model"

    @property
    def prepared(self) -> Path:
        """Written last: what was prepared, in numbers."""
        return self.folder / "prepared.json"

    @property
    def cache(self) -> Path:
        """Axolotl's own copy of the data."""
        return self.folder / "cache"

    @property
    def output(self) -> Path:
        """Axolotl's `output_dir`."""
        return self.folder / "output"

    @property
    def resume(self) -> Path:
        """Checkpoints in the form that Axolotl continues from; there while it trains."""
        return self.folder / "resume"
