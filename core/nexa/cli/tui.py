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
def command(run: str | None, readonly: bool, ascii_only: bool) -> int:
    """Open the terminal UI: recipes, runs, curves, logs and queue, on one screen.

    It reads run directories and asks schedulers; closing it ends no run.
    """
    app = load_app(run=run, readonly=readonly, ascii=ascii_only)
    app.run()
    return app.return_code or 0


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
