"""`nexa generate`: let a checkpoint continue a text."""

from __future__ import annotations

import sys

import click

from nexa.cli.talk import CHECKPOINT_HELP, load, print_stream, talk_options


@click.command(epilog=CHECKPOINT_HELP)
@talk_options
@click.option("--prompt", "-p", metavar="TEXT", help="Text to continue. Default: what stands on standard input.")
def command(reference: str, max_new_tokens: int, temperature: float, store_uri: str | None, prompt: str | None) -> None:
    """Print how a checkpoint continues a text; no chat template is applied.

    Only the continuation goes to standard output.
    """
    text = sys.stdin.read() if prompt is None else prompt
    _, session = load(reference, store_uri)
    print_stream(session.complete(text, max_new_tokens=max_new_tokens, temperature=temperature))
