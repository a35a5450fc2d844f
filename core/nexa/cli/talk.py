"""What `nexa chat` and `nexa generate` share: their options, loading, and printing a model's words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from nexa.backend import ChatSession
    from nexa.checkpoints import Checkpoint

_Command = TypeVar("_Command", bound=Callable[..., Any])

CHECKPOINT_HELP = "CHECKPOINT is a folder, an artifact's name, a run id or the start of one, or `latest`."


def talk_options(function: _Command) -> _Command:
    """Add the argument CHECKPOINT and the options of generation, given to the command by name."""
    decorators: tuple[Callable[[Any], Any], ...] = (
        click.argument("reference", metavar="[CHECKPOINT]", default="latest"),
        click.option(
            "--max-new-tokens",
            type=click.IntRange(min=1),
            default=256,
            show_default=True,
            help="Longest answer, in tokens.",
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(min=0.0),
            default=0.0,
            show_default=True,
            help="0 takes the likeliest token; higher varies more.",
        ),
        click.option(
            "--store", "store_uri", metavar="URI", help="Artifact store to look in instead of the one in the settings."
        ),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def load(reference: str, store_uri: str | None) -> tuple[Checkpoint, ChatSession]:
    """Find, verify and load a checkpoint, telling on stderr what is loaded. Raises NexaError."""
    from nexa.checkpoints import find_checkpoint, open_chat
    from nexa.text import sanitize_line

    checkpoint = find_checkpoint(
        reference, store_uri=store_uri, warn=lambda text: click.echo(f"warning: {text}", err=True)
    )
    click.echo(f"loading {sanitize_line(checkpoint.name)} …", err=True)
    return checkpoint, open_chat(checkpoint)


def print_stream(pieces: Iterable[str]) -> str:
    """Print text as it comes, with everything that drives a terminal made visible; return it whole."""
    from nexa.text import sanitize

    whole = []
    for piece in pieces:
        whole.append(piece)
        click.echo(sanitize(piece), nl=False)
        sys.stdout.flush()
    click.echo()
    return "".join(whole)
