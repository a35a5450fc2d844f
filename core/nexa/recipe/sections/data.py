"""The recipe section `data`: what the model is trained and evaluated on."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nexa.recipe.sections.base import SHA256, NonNegativeInt, PositiveInt, Section


class ValidationSection(Section):
    """Held-out data: a fraction of the training data, or a source of its own."""

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of training documents held out, chosen by the training seed; of a single text, its end."""
    remote_uri: str | None = None
    """Held-out data, in the forms of data.remote_uri."""
    split: str | None = None
    """Named split of a hub data set."""
    max_documents: PositiveInt | None = None
    """Evaluate on the first so many held-out documents. Default: all."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("fraction", "remote_uri", "split") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; keep one (null takes back an inherited one)")
        return self


class DataSection(Section):
    """What the model is trained on."""

    remote_uri: str
    """File or folder (relative to the recipe), `s3://…`, `gs://…`, `hf:org/dataset`, or
    `pkg:PACKAGE/FILE` shipped in a Python package. JSONL or plain text."""
    format: Literal[
        "auto", "messages", "prompt_response", "instruction", "text", "tokens", "preference", "unpaired", "prompts"
    ] = "auto"
    """Row layout: chat `messages`, `prompt`/`response` pairs, `instruction`/`input`/`output`, `text`, `tokens`
    (ids, with `labels` or a `mask`); `prompt`/`chosen`/`rejected` (preference), `prompt`/`completion`/`label`
    (unpaired), or `prompt` beside columns for rewards (prompts). Default: told from the method and the first row."""
    split: str | None = None
    """Named split of a hub data set. Default: "train"."""
    dataset_version: str | None = None
    """Version tag recorded in lineage; for a hub data set also its revision."""
    expected_dataset_hash: str | None = Field(default=None, pattern=SHA256)
    """SHA-256 of the data file; another hash stops the run before training. Default: not checked."""
    local_cache_root: str | None = None
    """Folder for downloaded and prepared data. Default: the user's cache folder."""
    streaming: bool = False
    """Encode and pack the data in the run, window by window, instead of whole before it; needs max_steps."""
    stream_window: PositiveInt = 8192
    """With streaming: documents that are packed and shuffled together, fewer where they are long."""
    validation: ValidationSection = ValidationSection.defaults()
    """Held-out data. Default: none, so nothing is evaluated."""
    max_documents: PositiveInt | None = None
    """Train on the first so many documents. Default: all."""
    packing: bool = True
    """Put several documents into one row, with attention and positions kept apart."""
    train_on: Literal["auto", "assistant", "all"] = "auto"
    """Tokens that carry loss: the assistant's (or response's), or all. Default: assistant for sft, all for pretrain."""
    loader_workers: NonNegativeInt = 0
    """Processes of each worker that load training batches ahead; 0 loads them in the worker itself."""
