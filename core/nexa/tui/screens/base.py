"""What all screens share: the bar above, the keys below, and reading off the UI thread."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.timer import Timer
from textual.worker import get_current_worker

from nexa.errors import NexaError
from nexa.text import sanitize
from nexa.tui.threads import deliver
from nexa.tui.widgets.bar import KeyBar, NavigationBar

if TYPE_CHECKING:
    from collections.abc import Callable

    from nexa.tui.app import NexaApp
    from nexa.tui.services import Services


class NexaScreen(Screen[None]):
    """A screen of the bar. Subclasses give `body`, and where they show what changes, `read` and `show`.

    `read` runs in a thread every `READ_SECONDS` while the screen is the one shown, never twice at
    once, and returns what it found; `show` gets that on the UI thread. Reading stops while another
    screen is shown, and one more read follows at once when this one comes back.
    """

    ENTRY: ClassVar[str]
    """Name of the screen in `nexa.tui.screens.SCREENS`."""

    READ_SECONDS: ClassVar[float | None] = None
    """Seconds between reads, None for a screen that reads once when it is shown."""

    _timer: Timer | None = None
    _reading = False
    _read_again = False

    @property
    def nexa(self) -> NexaApp:
        """The app, with its type."""
        from nexa.tui.app import NexaApp

        assert isinstance(self.app, NexaApp)
        return self.app

    @property
    def services(self) -> Services:
        """What the screen works with."""
        return self.nexa.services

    def compose(self) -> ComposeResult:
        """The bar, the screen's own part, the keys."""
        yield NavigationBar(self.ENTRY)
        with Vertical(id="body"):
            yield from self.body()
        yield KeyBar("")

    def body(self) -> ComposeResult:
        """Widgets between the bar and the footer."""
        yield from ()

    def read(self) -> Any:
        """Read what the screen shows; runs in a thread and touches no widget. May raise NexaError."""
        return None

    def show(self, found: Any) -> None:
        """Put what `read` returned on the screen."""

    def show_trouble(self, error: NexaError) -> None:
        """Say that `read` failed."""
        self.tell(error)

    def on_screen_resume(self) -> None:
        """Read at once, and go on reading."""
        self.read_now()
        if self.READ_SECONDS is not None and self._timer is None:
            self._timer = self.set_interval(self.READ_SECONDS, self.read_now)
        elif self._timer is not None:
            self._timer.resume()

    def on_screen_suspend(self) -> None:
        """Another screen is shown: nothing is read for this one."""
        if self._timer is not None:
            self._timer.pause()

    def read_now(self) -> None:
        """Begin a read unless one is under way; that one is then followed by another."""
        if self._reading:
            self._read_again = True
            return
        self._reading = True
        self._read_in_thread()

    @work(thread=True, group="read")
    def _read_in_thread(self) -> None:
        worker = get_current_worker()
        try:
            found: Any = self.read()
        except NexaError as error:
            found = error
        if not worker.is_cancelled:
            self.deliver(self._show, found)

    def deliver(self, function: Callable[..., object], *arguments: Any) -> None:
        """From a thread: call a function, which may be async, on the UI thread, unless the screen is gone by then."""
        deliver(self, function, *arguments)

    def _show(self, found: Any) -> None:
        self._reading = False
        if not (self.is_attached and self.app.is_running):
            return
        if isinstance(found, NexaError):
            self.show_trouble(found)
        else:
            self.show(found)
        if self._read_again:
            self._read_again = False
            self.read_now()

    def tell(self, error: NexaError | str, *, severity: str = "error") -> None:
        """Show a message in a corner; text from outside is made safe."""
        text = error if isinstance(error, str) else f"{error.message}\n{error.hint or ''}".strip()
        self.app.notify(sanitize(text), severity=severity, markup=False)  # type: ignore[arg-type]

    def inform(self, text: str) -> None:
        """Show that something went well."""
        self.tell(text, severity="information")

    def action_filter(self) -> None:
        """Go to the screen's filter or search; screens that have one override this."""

    def action_back(self) -> Awaitable[None] | None:
        """Leave the innermost layer; screens with layers override this."""
        return None
