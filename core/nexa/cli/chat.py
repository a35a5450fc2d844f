"""`nexa chat`: talk to a checkpoint."""

from __future__ import annotations

import click

from nexa.cli.talk import CHECKPOINT_HELP, load, print_stream, talk_options

_HELP = "/reset forgets the conversation, /quit (or Ctrl-D) leaves"


@click.command(epilog=CHECKPOINT_HELP)
@talk_options
@click.option(
    "--message",
    "-m",
    "messages",
    multiple=True,
    metavar="TEXT",
    help="Say this and print the answer; repeat for several turns.",
)
@click.option("--system", metavar="TEXT", help="System message at the start of the conversation.")
def command(
    reference: str,
    max_new_tokens: int,
    temperature: float,
    store_uri: str | None,
    messages: tuple[str, ...],
    system: str | None,
) -> None:
    """Talk to a checkpoint, by default the latest one.

    Answers are printed as they are made. With --message nothing is asked: each message is answered
    and the command ends.
    """
    _, session = load(reference, store_uri)
    start = [{"role": "system", "content": system}] if system else []
    conversation = list(start)

    def answer(text: str) -> None:
        conversation.append({"role": "user", "content": text})
        pieces = session.reply(conversation, max_new_tokens=max_new_tokens, temperature=temperature)
        conversation.append({"role": "assistant", "content": print_stream(pieces)})

    if messages:
        for message in messages:
            answer(message)
        return
    click.echo(_HELP, err=True)
    while (text := _read_line()) is not None:
        if text == "/quit":
            return
        if text == "/reset":
            conversation[:] = start
            click.echo("the conversation starts afresh", err=True)
        elif text.startswith("/"):
            click.echo(f"unknown command {text.split()[0]}; {_HELP}", err=True)
        elif text:
            answer(text)


def _read_line() -> str | None:
    """One line from the person, without surrounding blanks; None at the end of input."""
    try:
        return input("> ").strip()
    except EOFError:
        click.echo(err=True)
        return None
