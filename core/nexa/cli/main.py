"""The command `nexa`: a table of commands, each imported when it is called, and one error handler."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from nexa import __version__
from nexa.cli.output import report_bug, report_error
from nexa.errors import NexaError

INTERRUPTED_EXIT_CODE = 130
BROKEN_PIPE_EXIT_CODE = 141
_GC_THRESHOLD = 10_000
"""New objects between two searches for cycles; Python's 700 would search dozens of times while modules are imported."""


@dataclass(frozen=True)
class CommandEntry:
    """One command of the table: where it is, its one-line help, and the heading it stands under."""

    target: str
    help: str
    heading: str


COMMANDS: dict[str, CommandEntry] = {
    "launch": CommandEntry("nexa.cli.launch:command", "Train what a recipe describes.", "Train"),
    "train": CommandEntry("nexa.cli.train:command", "Train in this process, also under torchrun.", "Train"),
    "resume": CommandEntry("nexa.cli.resume:command", "Continue a run from its newest checkpoint.", "Train"),
    "sweep": CommandEntry("nexa.cli.sweep:command", "Train a recipe many times with different values.", "Train"),
    "stop": CommandEntry("nexa.cli.stop:command", "Save a checkpoint, then end a run.", "Train"),
    "kill": CommandEntry("nexa.cli.kill:command", "End a run at once, without a checkpoint.", "Train"),
    "requeue": CommandEntry("nexa.cli.requeue:command", "Put a run back into its scheduler's queue.", "Train"),
    "tui": CommandEntry("nexa.cli.tui:command", "Open the terminal UI.", "Watch"),
    "runs": CommandEntry("nexa.cli.runs:command", "List runs and their state.", "Watch"),
    "show": CommandEntry("nexa.cli.show:command", "Show one run: state, plan, attempts, checkpoints.", "Watch"),
    "logs": CommandEntry("nexa.cli.logs:command", "Print what a run's workers wrote.", "Watch"),
    "metrics": CommandEntry("nexa.cli.metrics:command", "Print a run's losses and speeds.", "Watch"),
    "cluster": CommandEntry("nexa.cli.cluster:command", "Show machines, partitions and your jobs.", "Watch"),
    "diff": CommandEntry("nexa.cli.diff:command", "Show in which settings and metrics runs differ.", "Watch"),
    "recipe": CommandEntry("nexa.cli.recipe:command", "List, show, check and make recipes.", "Prepare"),
    "verify-resume": CommandEntry(
        "nexa.cli.verify_resume:command", "Cut and resume a run, and compare it bit by bit.", "Prepare"
    ),
    "distill": CommandEntry("nexa.cli.distill:command", "Record a teacher, and compare students with it.", "Prepare"),
    "prepare": CommandEntry("nexa.cli.prepare:command", "Make a recipe's data ready before a run.", "Prepare"),
    "data": CommandEntry("nexa.cli.data:command", "Look at data as training sees it.", "Prepare"),
    "plugins": CommandEntry("nexa.cli.plugins:command", "List plugins and what is wrong with them.", "Prepare"),
    "env": CommandEntry("nexa.cli.env:command", "Make and check the environments of backends.", "Prepare"),
    "doctor": CommandEntry("nexa.cli.doctor:command", "Check this machine and say what to install.", "Prepare"),
    "artifacts": CommandEntry("nexa.cli.artifacts:command", "List, verify and clean up checkpoints.", "Use"),
    "chat": CommandEntry("nexa.cli.chat:command", "Talk to a checkpoint.", "Use"),
    "export": CommandEntry("nexa.cli.export:command", "Write a checkpoint's model for other programs.", "Use"),
    "serve": CommandEntry("nexa.cli.serve:command", "Serve a checkpoint to clients of the OpenAI API.", "Use"),
    "generate": CommandEntry("nexa.cli.generate:command", "Continue a text with a checkpoint.", "Use"),
    "plugin": CommandEntry("nexa.cli.plugin:command", "Make a package for a plugin of your own.", "Extend"),
    "conformance": CommandEntry(
        "nexa.cli.conformance:command", "Compare a backend with a reference, check by check.", "Extend"
    ),
}
"""Every command, in the order of the help page."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command; None when the table has no such name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one names the nearest. Raises click.UsageError."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = get_close_matches(name, COMMANDS, n=1)
            advice = f"did you mean `nexa {close[0]}`?" if close else f"commands: {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command {name!r}; {advice}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands under their headings, importing none of them."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for name, entry in COMMANDS.items():
            headings.setdefault(entry.heading, []).append((name, entry.help))
        for heading, rows in headings.items():
            with formatter.section(heading):
                formatter.write_dl(rows, col_max=16)


def _use_own_plugins_only(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """The variable reaches the processes that this command starts, too."""
    if value:
        os.environ["NEXA_NO_PLUGINS"] = "1"


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(__version__, "--version", message="nexa %(version)s")
@click.option(
    "--no-plugins",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_use_own_plugins_only,
    help="Load only the plugins that come with Nexa.",
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """One recipe, any trainer, any machine.

    Start with: nexa recipe list, then: nexa launch quickstart. Without a command, nexa opens its
    terminal UI (nexa tui) where it has a terminal and Textual, and shows this help elsewhere.
    """
    if ctx.invoked_subcommand is not None:
        return
    if _can_open_ui():
        from nexa.cli.tui import command as open_ui

        ctx.invoke(open_ui)
    else:
        click.echo(ctx.get_help())


def _can_open_ui() -> bool:
    """Whether there is a terminal to draw on and a library to draw with."""
    from importlib.util import find_spec

    terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return terminal and find_spec("textual") is not None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argv excludes the program's name.

    Exit codes: 0 well, 1 the run or machine failed, 2 what was typed or written must change,
    70 a bug in Nexa, 130 interrupted, 141 the reader of the output went away.
    """
    if argv is None:
        gc.set_threshold(_GC_THRESHOLD)
    try:
        try:
            result = _invoke(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
            if argv is None:
                # The process ends here; a last search for cycles among all that was imported would free nothing.
                gc.freeze()
    except BrokenPipeError:
        _forget_stdout()
        return BROKEN_PIPE_EXIT_CODE
    return result


def _invoke(arguments: list[str]) -> int:
    """Run a command and turn every way it can end into an exit code; lets BrokenPipeError out."""
    try:
        with command.make_context("nexa", arguments) as context:
            result: Any = command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except NexaError as error:
        report_error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted", err=True)
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        raise
    except Exception as error:
        return report_bug(error)
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's own flush at exit stays quiet."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
