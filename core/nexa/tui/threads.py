"""The way from a worker thread back to the screen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from textual.message_pump import MessagePump


def deliver(node: MessagePump, function: Callable[..., object], *arguments: Any) -> None:
    """From a thread: have a function, which may be async, called on the UI thread soon; does not wait for it.

    Nothing happens once `node`, a widget, screen or app, is closing: a thread that waited for an app
    which waits for its threads would keep both from ending.
    """
    # The event loop may close between the check and the call.
    with contextlib.suppress(RuntimeError):
        node.call_later(function, *arguments)
