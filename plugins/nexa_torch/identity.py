"""Which weights an adapter was trained on: a fingerprint of the base model, recorded beside the adapter."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nexa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "base_model.json"
_SAMPLES = 64


@torch.no_grad()
def weights_fingerprint(network: PreTrainedModel) -> str:
    """SHA-256 in hex over names, shapes and some evenly spaced fp32 values of each weight.

    Other weights have another fingerprint for all practical purposes; taking it reads a few values of each.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(network.named_parameters()):
        values = weight.detach().flatten()
        places = torch.linspace(0, len(values) - 1, min(_SAMPLES, len(values)), dtype=torch.float64).long()
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        digest.update(values[places].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def write_base(folder: Path, name: str, fingerprint: str) -> None:
    """Record the base model in an adapter's folder."""
    document = {"name": name, "fingerprint": fingerprint}
    (folder / FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def require_base(network: PreTrainedModel, adapter: Path, name: str) -> None:
    """Raise UserError where an adapter was trained on other weights than these; adapters without a record pass."""
    file = adapter / FILE
    if not file.is_file():
        return
    recorded = json.loads(file.read_text(encoding="utf-8"))["fingerprint"]
    found = weights_fingerprint(network)
    if found != recorded:
        raise UserError(
            f"the adapter in {adapter} was trained on another base model: {name} now has fingerprint {found[:12]}…, "
            f"then it had {recorded[:12]}…",
            hint=f"restore the weights of {name} that the adapter was trained on",
        )
