"""Registers the backend `axolotl`; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from nexa.hookspecs import hookimpl
from nexa.specs import BackendSpec, Conformance
from nexa_axolotl.backend import FACTORY
from nexa_axolotl.preferences import METHODS

DIFFERENCES = {
    "lr": "transformers begins its warm-up at rate 0, so the first step of a warm-up changes nothing",
    "curve": "transformers decays embeddings too, all but norms and biases",
    "accumulation": "Axolotl takes the mean of the microbatches' means, whatever their number of trained tokens",
    "packing": "Axolotl packs in a new random order every epoch, and leaves out the last batch where it is not full",
}
"""What the conformance kit finds to be otherwise than in its reference, by Axolotl's and transformers' design."""


PINS = ("accelerate==1.13.0", "datasets==4.8.4", "peft==0.20.0", "transformers==5.16.1", "trl==1.9.0")
"""What this Axolotl pins of the libraries that other backends use, so that contradictions show before it is built."""


@hookimpl
def nexa_register_backends() -> Iterable[BackendSpec]:
    """Return the backend `axolotl`."""
    return [
        BackendSpec(
            name="axolotl",
            summary="Axolotl in an environment of its own: LoRA, QLoRA and full training, FSDP2 and DeepSpeed",
            factory=FACTORY,
            options_model="nexa_axolotl.options:AxolotlOptions",
            capabilities=frozenset({"chat", "language-model", "resume", "serve"}),
            conformance=Conformance(differences=DIFFERENCES),
            methods=("pretrain", "sft", *METHODS),
            requirements=("axolotl==0.19.0", "torch==2.13.0", *PINS),
            probes=("axolotl", "torch"),
            importer="nexa_axolotl.importing:import_configuration",
        )
    ]
