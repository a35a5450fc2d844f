"""Registers the backend `axolotl`; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from nexa.hookspecs import hookimpl
from nexa.specs import BackendSpec
from nexa_axolotl.backend import FACTORY
from nexa_axolotl.preferences import METHODS


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
            methods=("pretrain", "sft", *METHODS),
            requirements=("axolotl==0.19.0", "torch==2.13.0"),
            probes=("axolotl", "torch"),
            importer="nexa_axolotl.importing:import_configuration",
        )
    ]
