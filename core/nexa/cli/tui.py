"""`nexa tui`: the terminal UI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nexa.tui.app import NexaApp


@click.command()
@click.option("--run", "run", metavar="RUN", help="Open on this run: an id, the start of one, a name, or `latest`.")
@click.option("--readonly", is_flag=True, help="Refuse to launch, stop, kill or resume.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters only.")
@click.option("--serve", "in_browser", is_flag=True, help="Show it in a browser on this machine, read-only.")
@click.option("--port", type=click.IntRange(0, 65535), help="With --serve: port; 0 takes a free one. Default: 8000.")
@click.option("--allow-actions", is_flag=True, help="With --serve: let the browser launch, stop, kill and resume.")
def command(
    run: str | None, readonly: bool, ascii_only: bool, in_browser: bool, port: int | None, allow_actions: bool
) -> int:
    """Open the terminal UI: recipes, runs, curves, logs and queue, on one screen.

    It reads run directories and asks schedulers; closing it ends no run.
    """
    from nexa.cli.output import fail

    if not in_browser and (port is not None or allow_actions):
        fail("--port and --allow-actions belong to --serve")
    if readonly and allow_actions:
        fail("--readonly and --allow-actions exclude each other")
    if in_browser:
        return _serve(run, ascii_only=ascii_only, port=port, allow_actions=allow_actions)
    app = load_app(run=run, readonly=readonly, ascii=ascii_only)
    app.run()
    return app.return_code or 0


def _serve(run: str | None, *, ascii_only: bool, port: int | None, allow_actions: bool) -> int:
    """Serve until interrupted; what can't be opened is said here, not in the browser."""
    load_app(run=run, readonly=True, ascii=ascii_only)
    from nexa.tui.serve import DEFAULT_PORT, serve

    arguments = [*(["--run", run] if run is not None else []), *(["--ascii"] if ascii_only else [])]
    serve(arguments, port=DEFAULT_PORT if port is None else port, allow_actions=allow_actions)
    return 0


def load_app(*, run: str | None, readonly: bool, ascii: bool) -> NexaApp:
    """Make the app. Raises UserError when its libraries are not installed."""
    from nexa.errors import UserError
    from nexa.extras import pip_line

    try:
        import textual  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            "the terminal UI needs Textual, which is not installed", hint=f"install it: {pip_line('tui')}"
        ) from None
    from nexa.tui.open import make_app

    return make_app(run=run, readonly=readonly, ascii=ascii)
