"""One answer of the mock over HTTP, streamed or whole, including the ways it may break."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

import msgspec
from aiohttp import web

from quiver.live.backends.mock.config import Fault, FaultKind
from quiver.live.backends.mock.engine import Emitted, Finished, Garbage, Job, MockEngine, StreamCut, StreamEnded
from quiver.live.backends.mock.runner import EngineError

FAULT_HEADER = "x-mock-fault"
ENGINE: web.AppKey[MockEngine] = web.AppKey("mock_engine", MockEngine)

Item = Emitted | Garbage | Finished


class Writing(Protocol):
    """How one API writes one answer."""

    content_type: str

    def piece(self, text: str) -> bytes:
        """A piece of the stream."""

    def last(self, finished: Finished) -> bytes:
        """The end of the stream."""

    def garbage(self) -> bytes:
        """What looks like a piece and is not JSON."""

    def error(self, message: str) -> bytes:
        """An error in the stream."""

    def whole(self, text: str, finished: Finished) -> Any:
        """The answer in one piece."""


def fault_of(request: web.Request) -> Fault | None:
    """The fault this request asked for."""
    text = request.headers.get(FAULT_HEADER)
    return Fault.parse(text) if text else None


def json_response(value: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


async def body_of(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request, whatever its content type; `EngineError` 400 otherwise."""
    data = await request.read()
    if not data:
        raise EngineError(400, "missing request body")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EngineError(400, f"invalid request body: {error}") from None


async def respond(request: web.Request, job: Job, writing: Writing, *, stream: bool) -> web.StreamResponse:
    """Generate and send. An error before the first token has a status, even for a stream."""
    engine = request.app[ENGINE]
    trickle = _takes_trickle(engine, job)
    async with aclosing(engine.generate(job)) as items:
        try:
            first = await anext(items)
        except (StreamCut, StreamEnded):
            _abort(request)
            raise ConnectionResetError("the mock cut this answer before its first byte") from None
        if stream:
            return await _stream(request, first, items, writing, trickle=trickle)
        return await _whole(request, first, items, writing)


def _takes_trickle(engine: MockEngine, job: Job) -> bool:
    fault = job.fault or (engine.faults[0] if engine.faults else None)
    return fault is not None and fault.kind is FaultKind.TRICKLE


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _stream(
    request: web.Request, item: Item, items: AsyncIterator[Item], writing: Writing, *, trickle: bool
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": writing.content_type})
    await response.prepare(request)
    while True:
        if isinstance(item, Emitted):
            data = writing.piece(item.text)
        else:
            data = writing.garbage() if isinstance(item, Garbage) else writing.last(item)
        for part in [data[at : at + 1] for at in range(len(data))] if trickle else [data]:
            await response.write(part)
        if isinstance(item, Finished):
            break
        try:
            item = await anext(items)
        except StreamEnded:
            break
        except StreamCut:
            _abort(request)
            return response
        except EngineError as error:
            await response.write(writing.error(str(error)))
            break
    await response.write_eof()
    return response


async def _whole(request: web.Request, item: Item, items: AsyncIterator[Item], writing: Writing) -> web.Response:
    parts: list[str] = []
    while not isinstance(item, Finished):
        if isinstance(item, Garbage):
            return web.Response(body=writing.garbage(), content_type="application/json")
        parts.append(item.text)
        try:
            item = await anext(items)
        except (StreamCut, StreamEnded):
            _abort(request)
            raise ConnectionResetError("the mock cut this answer") from None
    return json_response(writing.whole("".join(parts), item))
