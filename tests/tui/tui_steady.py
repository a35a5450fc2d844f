"""Makes the UI under test independent of the machine's speed: nothing on the screen goes away by itself.

Textual's own pilot takes a process that gets no CPU time for one that has nothing to do, and goes on before
a key was handled. Here a key counts as pressed once every message that followed from it has been handled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from textual import constants
from textual.app import App
from textual.message_pump import MessagePump
from textual.pilot import Pilot

SECONDS = 90.0
"""The longest that a test waits for something to happen."""

_QUIET_ROUNDS = 2
_MOST_ROUNDS = 200


def _pumps(app: App[Any]) -> Iterator[MessagePump]:
    """Everything that may have messages waiting."""
    yield app
    for screen in app.screen_stack:
        yield from screen.walk_children(with_self=True)


async def settle(pilot: Pilot[Any]) -> None:
    """Return once no message is waiting to be handled; timers and threads may bring new ones later."""
    app, quiet = pilot.app, 0
    for _ in range(_MOST_ROUNDS):
        if not app.is_running or not app.screen_stack:
            return
        await pilot._wait_for_screen(SECONDS)
        waiting = any(pump._message_queue.qsize() for pump in _pumps(app) if pump.is_running)
        quiet = 0 if waiting else quiet + 1
        if quiet == _QUIET_ROUNDS:
            return


async def _press(pilot: Pilot[Any], *keys: str) -> None:
    """Press keys, each after what the one before it led to."""
    for key in keys:
        await pilot.app._press_keys([key])
        await settle(pilot)


_pause = Pilot.pause


async def _settled_pause(pilot: Pilot[Any], delay: float | None = None) -> None:
    """Without a delay, pause until what was begun is done and drawn."""
    if delay is None:
        await settle(pilot)
    await _pause(pilot, delay or 0)


async def _no_wait(*_: float) -> None:
    """Stands for the wait until the process uses little CPU, which `settle` replaces."""
    await asyncio.sleep(0)


def apply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have notifications stay, nothing animated, and keys handled before the test goes on."""
    monkeypatch.setattr(App, "NOTIFICATION_TIMEOUT", 3600.0)
    monkeypatch.setattr(constants, "TEXTUAL_ANIMATIONS", "none")
    monkeypatch.setattr("textual.app.wait_for_idle", _no_wait)
    monkeypatch.setattr(Pilot._wait_for_screen, "__defaults__", (SECONDS,))
    monkeypatch.setattr(Pilot, "press", _press)
    monkeypatch.setattr(Pilot, "pause", _settled_pause)


def screen_text(app: Any) -> str:
    """What the terminal shows, as lines of text."""
    width, height = app.size
    strips = app.screen._compositor.render_strips()
    text = []
    for strip in strips[:height]:
        for each in app.get_line_filters():
            strip = strip.apply_filter(each, app.screen.background_colors[1])
        text.append("".join(segment.text for segment in strip)[:width])
    return "\n".join(text)


async def until(pilot: Pilot[Any], condition: Callable[[], Any], seconds: float = SECONDS) -> None:
    """Wait until a condition holds, letting the app work; what it looks for may not be there yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except LookupError:
            pass
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s\n{screen_text(pilot.app)}"
        await pilot.pause(0.02)


def told(app: App[Any]) -> str:
    """What the app has notified of so far, not broken into lines."""
    return "\n".join(note.message for note in app._notifications)
