"""The endpoint as an ASGI application: routes, who may ask, and one answer at a time."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nexa.serving.answering import Job, Piece, answer, make_jobs
from nexa.serving.refusals import RequestError
from nexa.serving.replies import ChatShape, CompletionShape, Head, Shape, usage
from nexa.serving.requests import GenerationRequest, Reader, chat_request, completion_request

if TYPE_CHECKING:
    from starlette.requests import Request

    from nexa.generator import TextGenerator

MAX_BODY_BYTES = 16 << 20
_log = logging.getLogger("nexa.serving")


def make_app(generator: TextGenerator, *, model: str, api_key: str | None = None) -> Starlette:
    """The application that serves `generator` under the name `model`.

    api_key: what clients must send as a bearer token; None lets everyone in who reaches the port.
    """
    return _Endpoint(generator, model=model, api_key=api_key).application()


class _Endpoint:
    """Handlers of all routes. Requests wait for one another: the model makes one answer at a time."""

    def __init__(self, generator: TextGenerator, *, model: str, api_key: str | None) -> None:
        self._generator = generator
        self._model = model
        self._api_key = api_key
        self._started = int(time.time())
        self._turn = anyio.Lock()

    def application(self) -> Starlette:
        """The routes with their errors."""
        completions = self._handler(completion_request, CompletionShape)
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._guarded(self._models)),
                Route("/v1/models/{model:path}", self._guarded(self._one_model)),
                Route("/v1/chat/completions", self._handler(chat_request, ChatShape), methods=["POST"]),
                Route("/v1/completions", completions, methods=["POST"]),
            ],
            exception_handlers={
                RequestError: _refused,
                HTTPException: _not_served,
                Exception: _failed,
            },
        )

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_document()]})

    async def _one_model(self, request: Request) -> Response:
        self._require_model(request.path_params["model"])
        return JSONResponse(self._model_document())

    def _model_document(self) -> Mapping[str, Any]:
        return {"id": self._model, "object": "model", "created": self._started, "owned_by": "nexa"}

    def _require_model(self, name: str | None) -> None:
        if name is not None and name != self._model:
            raise RequestError(
                f"there is no model {name!r} here; this endpoint serves {self._model!r}",
                status=404,
                param="model",
                code="model_not_found",
            )

    def _guarded(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """The handler, for those alone who have the key."""

        async def guarded(request: Request) -> Response:
            if self._api_key is not None:
                kind, _, given = request.headers.get("authorization", "").partition(" ")
                if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._api_key.encode()):
                    raise RequestError("the API key is missing or wrong", status=401, code="invalid_api_key")
            response: Response = await handler(request)
            return response

        return guarded

    def _handler(self, read: Reader, make_shape: Callable[[TextGenerator], Shape]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            wanted = read(await _body(request))
            self._require_model(wanted.model)
            async with self._turn:
                jobs = await anyio.to_thread.run_sync(make_jobs, wanted, self._generator)
            shape = make_shape(self._generator)
            head = Head(id=f"{shape.prefix}-{secrets.token_hex(12)}", created=int(time.time()), model=self._model)
            if wanted.stream:
                lines = self._stream(wanted, jobs, shape, head)
                return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
            return JSONResponse(await self._whole(request, wanted, jobs, shape, head))

        return self._guarded(handle)

    async def _whole(
        self, request: Request, wanted: GenerationRequest, jobs: Sequence[Job], shape: Shape, head: Head
    ) -> Mapping[str, Any]:
        """The whole answer; making it ends when the client goes away."""
        gone = threading.Event()

        async def watch() -> None:
            while not await request.is_disconnected():
                await anyio.sleep(0.2)
            gone.set()

        choices, made = [], 0
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            async with self._turn:
                for index, job in enumerate(jobs):
                    piece = await anyio.to_thread.run_sync(self._complete, wanted, job, index, gone)
                    made += len(piece.tokens) - (
                        len(job.prompt) if wanted.echo and wanted.top_logprobs is not None else 0
                    )
                    choices.append(shape.choice(index, piece, logprobs=wanted.top_logprobs is not None))
            group.cancel_scope.cancel()
        return {**head.document(shape.whole), "choices": choices, "usage": usage(_prompt_tokens(jobs, wanted), made)}

    def _complete(self, wanted: GenerationRequest, job: Job, index: int, gone: threading.Event) -> Piece:
        """One whole answer, with the prompt before it where that was asked for; runs in a thread."""
        whole = Piece("")
        if wanted.echo:
            whole.text = self._generator.decode(job.prompt)
            if wanted.top_logprobs is not None:
                whole.tokens += self._generator.score(job.prompt, wanted.top_logprobs)
        for piece in answer(wanted, job, index, self._generator, gone.is_set):
            whole.text += piece.text
            whole.tokens += piece.tokens
            whole.finish_reason = piece.finish_reason
        return whole

    async def _stream(
        self, wanted: GenerationRequest, jobs: Sequence[Job], shape: Shape, head: Head
    ) -> AsyncIterator[str]:
        """Server-sent events; closed by Starlette when the client goes away, which ends the making."""
        gone = threading.Event()
        part = head.document(shape.part)
        made = 0
        # Every chunk but the last then has a null usage, as OpenAI's have.
        blank = {"usage": None} if wanted.include_usage else {}
        try:
            async with self._turn:
                for index, job in enumerate(jobs):
                    if (opening := shape.opening(index)) is not None:
                        yield _event({**part, "choices": [opening], **blank})
                    offset = 0
                    pieces = answer(wanted, job, index, self._generator, gone.is_set)
                    while (piece := await anyio.to_thread.run_sync(_next, pieces)) is not None:
                        made += len(piece.tokens)
                        choice = shape.piece(index, piece, logprobs=wanted.top_logprobs is not None, offset=offset)
                        offset += len(piece.text)
                        yield _event({**part, "choices": [choice], **blank})
            if wanted.include_usage:
                yield _event({**part, "choices": [], "usage": usage(_prompt_tokens(jobs, wanted), made)})
            yield "data: [DONE]\n\n"
        finally:
            gone.set()


def _prompt_tokens(jobs: Sequence[Job], wanted: GenerationRequest) -> int:
    """Tokens of all prompts; several answers to one prompt count it once."""
    return sum(len(job.prompt) for job in jobs[:: wanted.n])


def _next(pieces: Iterator[Piece]) -> Piece | None:
    """The next piece, None at the end: StopIteration can't leave a thread."""
    return next(pieces, None)


async def _body(request: Request) -> Any:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise RequestError(f"the body is larger than {MAX_BODY_BYTES >> 20} MiB", status=413)
        chunks.append(chunk)
    try:
        return json.loads(b"".join(chunks))
    except ValueError as error:
        raise RequestError(f"the body is no JSON: {error}") from error


def _event(document: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.document(), status_code=error.status)


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path} is not served here"
    return JSONResponse(RequestError(message, code="unknown_url").document(), status_code=error.status_code)


async def _failed(request: Request, error: Exception) -> Response:
    _log.error("a request failed", exc_info=error)
    refusal = RequestError("the server failed; its output says why", status=500, kind="server_error")
    return JSONResponse(refusal.document(), status_code=500)
