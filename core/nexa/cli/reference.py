"""The command-line reference, made from the commands themselves: `python -m nexa.cli.reference`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

_KEEP_LINES = "\b\n"
_HEADER = """\
# Command line

<!-- Made by `python -m nexa.cli.reference`; remake it after changing a command. -->

Exit codes: 0 done · 1 a run or the machine failed · 2 something typed or written must change · 130 interrupted.
Global options stand before the command: `nexa --no-plugins launch …`.
"""


def markdown() -> str:
    """Every command with its usage, help, arguments and options, as one Markdown page."""
    from nexa.cli.main import command

    context = click.Context(command, info_name="nexa", **command.context_settings)
    return "\n".join([_HEADER, *_command_lines(command, context, depth=2)]).rstrip() + "\n"


def _command_lines(command: click.Command, context: click.Context, *, depth: int) -> Iterator[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"{'#' * depth} `{context.command_path}`\n"
    yield f"```\n{usage}\n```\n"
    if command.help:
        yield f"{_paragraphs(command.help)}\n"
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    if records:
        yield "| Option | Meaning |\n|---|---|"
        yield from (f"| `{_cell(option)}` | {_cell(meaning)} |" for option, meaning in records)
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _command_lines(
                    child, click.Context(child, info_name=name, parent=context), depth=min(depth + 1, 4)
                )


def _paragraphs(text: str) -> str:
    """Help text as Markdown; what click prints with its own line breaks becomes a code block."""
    paragraphs = inspect.cleandoc(text).split("\f")[0].strip().split("\n\n")
    return "\n\n".join(
        f"```\n{paragraph.removeprefix(_KEEP_LINES)}\n```" if paragraph.startswith(_KEEP_LINES) else paragraph
        for paragraph in paragraphs
    )


def _cell(text: str) -> str:
    """Text that stays inside one table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the page to standard output."""
    sys.stdout.write(markdown())


if __name__ == "__main__":
    main()
