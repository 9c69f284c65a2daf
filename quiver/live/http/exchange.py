"""One request from the first event to the last byte: frames what the service yields, and stops it when the client leaves.

Rules: the status line waits for the first event, so an early refusal has its own status; every chunk is written as it
comes; whatever happens, the service's iterator is closed, which cancels the request.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

from aiohttp import web

from quiver.errors import DeadlineExceeded, QuiverError, UsageError
from quiver.live.http.door import REQUEST_ID, REQUEST_ID_HEADER, Door, json_response
from quiver.live.http.problem import Problem, problem_of_error, problem_of_failure
from quiver.runtime import Deadline
from quiver.values.request import Failure, Final, InferenceRequest, Principal, RequestEvent, TokenChunk

CLIENT_STALL_S = 60.0
"A client that reads nothing for this long has left, whatever its socket says."
ANSWER_BYTES_MAX = 16 * 1024 * 1024
"Of an answer that is collected before it is sent."
COST_HEADER = "x-quiver-cost-credits"
"What an answer in one piece cost the client's account."

_log = logging.getLogger(__name__)


class Framing(Protocol):
    """How one dialect writes one answer. One instance a request."""

    content_type: str

    def chunk(self, text: str) -> bytes:
        """A piece of streamed text."""

    def final(self, final: Final) -> bytes:
        """The end of a stream, with the receipt."""

    def failure(self, problem: Problem) -> bytes:
        """The end of a stream that broke."""

    def whole(self, text: str, final: Final) -> dict[str, Any]:
        """The answer of a request that did not ask for a stream."""


async def answer(
    door: Door,
    request: web.Request,
    inference: InferenceRequest,
    principal: Principal,
    framing: Framing,
    *,
    stream: bool,
) -> web.StreamResponse:
    """Serve one request; `Problem` before the first byte."""
    events = door.service.handle(inference, principal)
    try:
        first = await _next(events)
        if stream:
            return await _stream(request, events, first, framing)
        return await _whole(events, first, framing)
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


async def _next(events: AsyncIterator[RequestEvent]) -> TokenChunk | Final:
    try:
        event = await anext(events)
    except StopAsyncIteration:
        raise Problem(503, "the answer ended without its end: send the request again") from None
    except Exception as error:
        if isinstance(error, QuiverError) and not isinstance(error, UsageError):
            raise problem_of_error(error) from error
        _log.exception("a request failed by a bug in the gateway")
        raise Problem(500, "the gateway failed; the operator's log says why") from error
    if isinstance(event, Failure):
        raise problem_of_failure(event)
    return event


async def _stream(
    request: web.Request, events: AsyncIterator[RequestEvent], event: TokenChunk | Final, framing: Framing
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": framing.content_type,
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            REQUEST_ID_HEADER: request[REQUEST_ID].hex(),
        }
    )
    try:
        await response.prepare(request)
        while isinstance(event, TokenChunk):
            if event.text:
                await _write(response, framing.chunk(event.text))
            try:
                event = await _next(events)
            except Problem as problem:
                await _write(response, framing.failure(problem))
                break
        else:
            await _write(response, framing.final(event))
        await response.write_eof()
    except (ConnectionError, DeadlineExceeded):
        # The client left or stopped reading. Closing the iterator (in `answer`) stops the work; nobody else is touched.
        if request.transport is not None:
            request.transport.abort()
    return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with Deadline(CLIENT_STALL_S):
        await response.write(data)


async def _whole(
    events: AsyncIterator[RequestEvent], event: TokenChunk | Final, framing: Framing
) -> web.StreamResponse:
    parts: list[str] = []
    size = 0
    while isinstance(event, TokenChunk):
        size += len(event.text)
        if size > ANSWER_BYTES_MAX:
            raise Problem(413, "the answer is too long to be sent in one piece: ask for stream, or fewer tokens")
        parts.append(event.text)
        event = await _next(events)
    # A stream's headers have left before anybody knows its cost: there it is in the last piece only.
    headers = {} if event.charged_credits is None else {COST_HEADER: str(event.charged_credits)}
    return json_response(framing.whole("".join(parts), event), headers=headers)
