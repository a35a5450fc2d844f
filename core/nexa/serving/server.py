"""Runs the endpoint on a port until it is interrupted."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from nexa.errors import UserError

if TYPE_CHECKING:
    from nexa.generator import TextGenerator

API_KEY_VARIABLE = "NEXA_SERVE_API_KEY"


def serve(
    generator: TextGenerator, listener: socket.socket, *, model: str, api_key: str | None, on_ready: Callable[[], None]
) -> None:
    """Answer requests on `listener` until Ctrl-C or SIGTERM. on_ready: called when connections are taken."""
    import uvicorn

    from nexa.serving.app import make_app

    class Server(uvicorn.Server):
        """Tells when it takes connections."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready()

    app = make_app(generator, model=model, api_key=api_key)
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=5)
    Server(config).run(sockets=[listener])


def listen(host: str, port: int, *, api_key: str | None) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises UserError where the port is taken, or where others could reach the endpoint without a key.
    """
    if api_key is None and not is_loopback(host):
        raise UserError(
            f"everyone who reaches {host} could use the model without a key",
            hint=f"set a key in the variable {API_KEY_VARIABLE}, or keep --host 127.0.0.1",
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        raise UserError(
            f"{host}:{port} can't be listened on: {error.strerror or error}", hint="choose another: --port 0"
        ) from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
