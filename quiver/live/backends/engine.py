"""What every engine behind HTTP has in common: one client session, and errors in the port's terms."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from quiver.errors import Busy, DeadlineExceeded, RejectionReason, RequestRejected, Unavailable
from quiver.runtime import Deadline

CONNECT_S = 5.0
SILENCE_S = 120.0
"The longest an engine may send nothing: a cold load of a large model, or a long prompt."
QUESTION_S = 10.0
"For what an engine answers from memory: its inventory, its health."
DRAIN_S = 1.0
"How long an engine may take to end its body after its last line."
ERROR_TEXT_MAX = 500
"Letters of an engine's error that travel on."

_log = logging.getLogger(__name__)


class EngineClient:
    """HTTP to one engine. The session is made on first use, inside the running loop."""

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, silence_s: float = SILENCE_S) -> None:
        self.url = url.rstrip("/")
        self._headers = dict(headers or {})
        self._silence_s = silence_s
        self._session: aiohttp.ClientSession | None = None

    async def get_json(self, path: str) -> Any:
        """One small question."""
        timeout = aiohttp.ClientTimeout(total=QUESTION_S, connect=CONNECT_S)
        async with self._asking("GET", path, None, timeout, f"the engine at {self.url}") as response:
            data = await response.read()
        return decode(data)

    @asynccontextmanager
    async def streaming(self, path: str, payload: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        """POST and read the answer's body as it comes. Leaving the block closes the connection, which stops the engine."""
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=self._silence_s)
        # These errors travel to whoever asked: where the engine lives is the operator's business, and in the log.
        async with self._asking("POST", path, payload, timeout, "the provider's engine") as response:
            yield response.content.iter_any()
            await _drain(response.content)

    async def close(self) -> None:
        """Release the session. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def _asking(
        self, method: str, path: str, payload: Any, timeout: aiohttp.ClientTimeout, name: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            # No limit here: how many requests run at once is the provider's own admission to decide.
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        body = None if payload is None else msgspec.json.encode(payload)
        headers = None if body is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method, self.url + path, data=body, headers=headers, timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise refusal(response.status, error_text(await response.read()), name)
                try:
                    yield response
                finally:
                    if not response.content.at_eof():
                        response.close()
        except TimeoutError as error:
            raise self._trouble(f"{name} fell silent: is it overloaded, or stuck?", error) from error
        except aiohttp.ClientConnectorError as error:
            if method == "GET":
                raise Unavailable(f"no engine answers at {self.url}: start it, or correct its URL ({error})") from error
            raise self._trouble(f"{name} does not answer", error) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self._trouble(f"the connection to {name} broke", error) from error

    def _trouble(self, message: str, error: BaseException) -> Unavailable:
        _log.warning("engine %s: %s (%s: %s)", self.url, message, type(error).__name__, error)
        return Unavailable(message)


async def _drain(content: aiohttp.StreamReader) -> None:
    # The answer is complete, the body's end is on its way: waiting for it lets the connection be used again.
    try:
        async with Deadline(DRAIN_S):
            while not content.at_eof():
                await content.readany()
    except (DeadlineExceeded, aiohttp.ClientError, ConnectionError, TimeoutError):
        return


def refusal(status: int, text: str, name: str) -> RequestRejected | Unavailable:
    """An engine's HTTP error in the port's terms: 4xx is the request's fault, unless it is load or access."""
    if status == 404:
        return RequestRejected(RejectionReason.UNKNOWN_MODEL, f"the engine says: {text}")
    if status == 413:
        return RequestRejected(RejectionReason.TOO_LARGE, f"the engine says: {text}")
    if status in (429, 503):
        return Busy(f"{name} is full: {text}", retry_after_s=1.0)
    if status in (401, 403):
        return Unavailable(f"{name} refuses its provider: {text}; the operator has to check its API key")
    if 400 <= status < 500:
        return RequestRejected(RejectionReason.BAD_REQUEST, f"the engine says: {text}")
    return Unavailable(f"{name} failed with HTTP {status}: {text}")


def error_text(data: bytes) -> str:
    """The text in an engine's error body, whichever of the known shapes it has."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return data[:ERROR_TEXT_MAX].decode("utf-8", "replace")
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, dict):
        error = error.get("message", error)
    return str(error)[:ERROR_TEXT_MAX]


def decode(data: bytes) -> Any:
    """JSON from an engine; `Unavailable` for anything else, as a broken engine may recover."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        shown = data[:80].decode("utf-8", "replace")
        raise Unavailable(f"the engine sent something that is not JSON ({error}): {shown!r}") from error


def count(value: Any) -> int:
    """A token count from an engine; missing or senseless is 0 (Ollama leaves zero metrics out)."""
    return value if type(value) is int and value > 0 else 0
