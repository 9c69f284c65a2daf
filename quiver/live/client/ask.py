"""Asking a gateway from a terminal: the answer as it comes, then the provider's receipt, checked here and not believed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec

from quiver.errors import MalformedMessage, Unavailable, UsageError
from quiver.live.client.verify import verify_receipt

CONNECT_S = 5.0
LINE_BYTES_MAX = 4 * 1024 * 1024


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer whose receipt was verified over its very text and the very request sent."""

    text: str
    model: str
    done_reason: str
    prompt_tokens: int
    completion_tokens: int
    paid_credits: int
    attempts: int
    verified: dict[str, Any]


async def ask(
    gateway: str, model: str, prompt: str, *, max_tokens: int | None = None, seed: int | None = None, api_key: str = "",
    on_text: Callable[[str], None] | None = None,
) -> Answer:  # fmt: skip
    """Stream one answer; raises `Unavailable` or `UsageError` with the gateway's words, `PeerError` for a false receipt."""
    body = {"model": model, "prompt": prompt, "stream": True, "max_tokens": max_tokens, "seed": seed}
    data = msgspec.json.encode({name: value for name, value in body.items() if value is not None})
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S)
    texts: list[str] = []
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=LINE_BYTES_MAX) as session,
            session.post(f"{gateway.rstrip('/')}/generate", data=data, headers=headers) as response,
        ):
            if response.status >= 400:
                raise _refusal(response.status, await response.read(), gateway)
            async for line in _objects(response.content):
                if "error" in line:
                    raise Unavailable(f"the answer broke off after {len(texts)} pieces: {line['error'].get('message')}")
                if line.get("done"):
                    return _finish(line, "".join(texts), data)
                texts.append(str(line["text"]))
                if on_text is not None:
                    on_text(texts[-1])
    except (aiohttp.ClientConnectorError, TimeoutError) as error:
        raise Unavailable(f"no gateway answers at {gateway}: start one, or correct --gateway ({error})") from error
    except aiohttp.ClientError as error:
        raise Unavailable(f"the connection to {gateway} broke: {error}; ask again") from error
    raise Unavailable("the answer ended without its end: ask again")


def _finish(line: dict[str, Any], text: str, sent: bytes) -> Answer:
    quiver = line.get("quiver")
    if not isinstance(quiver, dict):
        raise MalformedMessage("the answer carries no receipt: do not pay for it")
    verified = verify_receipt(quiver, answer=text, sent_body=sent)
    return Answer(
        text=text, model=line["model"], done_reason=line["done_reason"], prompt_tokens=line["prompt_tokens"],
        completion_tokens=line["completion_tokens"], paid_credits=quiver["paid_credits"], attempts=quiver["attempts"],
        verified=verified,
    )  # fmt: skip


async def _objects(content: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    async for line in content:
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise MalformedMessage(f"the gateway sent a line that is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise MalformedMessage("the gateway sent a line that is not an object")
        yield value


def _refusal(status: int, data: bytes, gateway: str) -> UsageError | Unavailable:
    try:
        message = msgspec.json.decode(data)["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        message = data[:200].decode("utf-8", "replace")
    text = f"{gateway} answers {status}: {message}"
    return UsageError(text) if 400 <= status < 500 and status != 429 else Unavailable(text)
