"""The UI in a browser: textual-serve on this machine's loopback address, for who holds the link.

Other users of the machine, and pages open in the same browser, reach loopback ports too. So every
request needs a token, which the link puts into a cookie, and a WebSocket also this server's own origin.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import shlex
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from textual_serve.server import Server

from nexa.errors import UserError

if TYPE_CHECKING:
    from aiohttp import web

HOST = "127.0.0.1"
DEFAULT_PORT = 8000
_NAMES = frozenset({HOST, "localhost"})
_HEADERS = {
    # The page's own files alone: nothing is fetched from elsewhere, and no other page may frame it.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:; connect-src 'self' ws://127.0.0.1:* "
    "ws://localhost:*; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serve(arguments: Sequence[str], *, port: int = DEFAULT_PORT, allow_actions: bool = False) -> None:
    """Serve `nexa tui` until it is interrupted; each tab of a browser is a process of its own.

    arguments: further ones of `nexa tui`. port: 0 takes a free one. Without `allow_actions` the UI is
    read-only. Raises UserError when the port is taken.
    """
    command = [sys.executable, "-m", "nexa.cli.main", "tui", *arguments]
    if not allow_actions:
        command.append("--readonly")
    with _listening(port) as listener:
        LoopbackServer(shlex.join(command), listener, allow_actions=allow_actions).serve()


class LoopbackServer(Server):
    """Answers only requests with its token; see the module."""

    def __init__(self, command: str, listener: socket.socket, *, allow_actions: bool) -> None:
        self.token = secrets.token_urlsafe(24)
        self._listener = listener
        port = listener.getsockname()[1]
        super().__init__(command, host=HOST, port=port, title="nexa", public_url=f"http://{HOST}:{port}")
        self._allow_actions = allow_actions

    @property
    def link(self) -> str:
        """What to open in a browser."""
        return f"{self.public_url}/?token={self.token}"

    def initialize_logging(self) -> None:
        """Only trouble is worth a line."""
        logging.basicConfig(level="WARNING", format="%(message)s")

    def serve(self, debug: bool = False) -> None:
        """Serve until interrupted or terminated."""
        from aiohttp import web

        self.initialize_logging()
        # The socket listens already: who opens the link as soon as it is printed is answered.
        web.run_app(self._make_app(), sock=self._listener, print=None)

    async def on_startup(self, app: web.Application) -> None:
        """Print the link."""
        what = "it can launch, stop and kill" if self._allow_actions else "read-only; --allow-actions permits more"
        print(f"The terminal UI is at\n  {self.link}\n({what}). Ctrl-C ends it; runs go on.", flush=True)

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard())
        return app

    def _guard(self) -> Any:
        from aiohttp import web

        cookie = f"nexa-{self.port}"

        @web.middleware
        async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
            if not self._is_own(request):
                raise web.HTTPForbidden(text="this server answers its own pages only")
            if self._matches(request.query.get("token", "")):
                # The token leaves the address bar, and the browser's history with it.
                response: web.StreamResponse = web.HTTPFound("/")
                response.set_cookie(cookie, self.token, httponly=True, samesite="Lax")
            elif self._matches(request.cookies.get(cookie, "")):
                response = await handler(request)
            else:
                response = web.Response(status=403, text="open the link that nexa tui --serve printed")
            if not response.prepared:
                response.headers.update(_HEADERS)
            return response

        return guard

    def _matches(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())

    def _is_own(self, request: web.Request) -> bool:
        """Whether a request names this machine's loopback and comes from a page of this server."""
        if request.host.rpartition(":")[0] not in _NAMES:
            return False
        origin = request.headers.get("Origin")
        wants_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        return origin == f"http://{request.host}" if origin is not None else not wants_socket


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(
            f"port {port} can't be used: {error.strerror or error}", hint="choose another: nexa tui --serve --port 0"
        ) from None
    return listener
