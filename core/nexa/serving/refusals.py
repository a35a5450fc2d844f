"""Errors of the endpoint, in the shape that OpenAI's clients read."""

from __future__ import annotations

from typing import Any


class RequestError(Exception):
    """A request that is refused: HTTP status, and what the body says of it.

    kind: OpenAI's `type`. param: the field at fault. code: a word for programs.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}
