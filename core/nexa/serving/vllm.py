"""The command that serves a checkpoint with vLLM, where there is a GPU and an environment that has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.errors import UserError

if TYPE_CHECKING:
    from nexa.checkpoints import Checkpoint

_ADAPTER = "adapter_config.json"


def vllm_argv(checkpoint: Checkpoint, *, python: str, model: str, host: str, port: int) -> list[str]:
    """The command; an adapter is served on the base model that it names.

    The key, where there is one, goes through vLLM's own variable VLLM_API_KEY, not the command line.
    """
    adapter = checkpoint.folder / _ADAPTER
    server = [python, "-m", "vllm.entrypoints.openai.api_server", "--host", host, "--port", str(port)]
    if not adapter.is_file():
        return [*server, "--model", str(checkpoint.folder), "--served-model-name", model]
    config = json.loads(adapter.read_text(encoding="utf-8"))
    return [
        *server,
        *("--model", str(config["base_model_name_or_path"]), "--tokenizer", str(checkpoint.folder)),
        *("--enable-lora", "--max-lora-rank", str(_rank(int(config.get("r", 16))))),
        *("--lora-modules", f"{model}={checkpoint.folder}"),
    ]


def require_vllm(python: str) -> None:
    """Raise UserError where this machine can't run vLLM in that environment."""
    from nexa.worker.environment import gpu_names

    if not gpu_names():
        raise UserError("vLLM needs a GPU, and this machine has none", hint="serve on CPU: --engine transformers")
    folder = Path(python).parent.parent
    if not any(folder.glob("lib*/python*/site-packages/vllm/__init__.py")):
        raise UserError(f"{python} has no vLLM", hint="name an interpreter that has it: --python PATH")


def _rank(rank: int) -> int:
    """The next rank that vLLM has kernels for."""
    return next((known for known in (8, 16, 32, 64, 128, 256, 320, 512) if rank <= known), rank)
