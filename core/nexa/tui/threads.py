"""The way from a worker thread back to the screen, and what a defect in one becomes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nexa.errors import NexaError

if TYPE_CHECKING:
    from textual.message_pump import MessagePump


def deliver(node: MessagePump, function: Callable[..., object], *arguments: Any) -> None:
    """From a thread: have a function, which may be async, called on the UI thread soon; does not wait for it.

    Nothing happens once `node`, a widget, screen or app, is closing: a thread that waited for an app
    which waits for its threads would keep both from ending.
    """
    # The event loop may close between the check and the call.
    with contextlib.suppress(RuntimeError):
        node.call_later(function, *arguments)


@contextlib.contextmanager
def defects_told(command: str) -> Iterator[None]:
    """A defect of a plugin, or of Nexa, becomes an error to show: it must not end the UI and what is edited in it.

    command: of `nexa`, the one that does the same and says where the defect is.
    """
    try:
        yield
    except NexaError:
        raise
    except Exception as error:
        hint = f"this is a bug in nexa or a plugin; the command prints where: NEXA_DEBUG=1 nexa {command} …"
        raise NexaError(f"internal error: {type(error).__name__}: {error}", hint=hint) from error
