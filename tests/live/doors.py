"""A gateway's HTTP doors on a loopback port, before a service that plays a script."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import ssl
import threading
from contextlib import contextmanager
from unittest.mock import patch

from quiver.identity.keys import KeyPair
from quiver.identity.signing import ack_digest, ack_domain, next_head, receipt_digest, request_hash
from quiver.live.http.app import make_app
from quiver.live.http.serve import start
from quiver.values.receipt import Acknowledgement, ReceiptBody, SignedReceipt
from quiver.values.request import Final, TokenChunk

MODEL = bytes(range(32))
PROVIDER, PAYER = KeyPair(b"p" * 32), KeyPair(b"g" * 32)
CHAIN, CONTRACT, CHANNEL = 31337, b"\x01" * 20, b"\x02" * 32


def make_final(request, text, *, prompt_tokens=7, completion_tokens=2, done_reason="stop"):
    """A `Final` with true signatures over `text`."""
    body = ReceiptBody(
        chain_id=CHAIN, contract=CONTRACT, channel=CHANNEL, request_id=request.request_id, seq=1,
        provider_key=PROVIDER.public_key, payer=PAYER.account,
        request_hash=request_hash(request.request_id, MODEL, request.max_tokens, request.body),
        response_hash=hashlib.sha256(text.encode()).digest(), model=MODEL, prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens, amount=9, cum=9, issued_ms=1_700_000_000_000,
    )  # fmt: skip
    digest = receipt_digest(body)
    head = next_head(bytes(32), digest)
    signature = PAYER.sign_session(ack_digest(ack_domain(CHAIN, CONTRACT), CHANNEL, 9, 1, head))
    return Final(
        done_reason=done_reason, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens,
        provider=PROVIDER.peer_id, model=MODEL, receipt=SignedReceipt(body=body, signature=PROVIDER.sign(digest)),
        acknowledgement=Acknowledgement(channel=CHANNEL, seq=1, cum=9, head=head, signature=signature),
        queue_s=0.0, attempts=1, paid_credits=9, quoted_credits=20,
    )  # fmt: skip


class Script:
    """Plays `events` for every request: text, an event, an exception to raise, or an asyncio.Event-maker to wait for."""

    def __init__(self, *events):
        self.events = events
        self.requests, self.principals, self.closed = [], [], []

    async def handle(self, request, principal):
        self.requests.append(request)
        self.principals.append(principal)
        sent = []
        try:
            for event in self.events:
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, str):
                    sent.append(event)
                    yield TokenChunk(text=event, tokens=1)
                elif event == END:
                    yield make_final(request, "".join(sent), completion_tokens=len(sent))
                elif callable(event):
                    await event()
                else:
                    yield event
        finally:
            self.closed.append(request.request_id)


END = object()


async def forever():
    """Never returns: only cancelling ends it."""
    await asyncio.Event().wait()


async def open_door(service, **options):
    """(runner, base url)."""
    app = make_app(service, models=lambda: [("tiny", MODEL), ("llama3:latest", MODEL)], **options)
    runner = await start(app, "127.0.0.1", 0)
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


_default_context = functools.lru_cache(ssl.create_default_context)


@contextmanager
def served(opening):
    """Run `await opening()` -> (runner, url) on a loop in a thread: synchronous clients then talk to `url`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        runner, url = asyncio.run_coroutine_threadsafe(opening(), loop).result(10)
        try:
            # Each client would read the system's certificates again: 100 ms that no test here is about.
            with patch("ssl.create_default_context", _default_context):
                yield url
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def doors(*events, **options):
    """(url, script) of doors before a scripted service."""
    script = Script(*events)
    with served(lambda: open_door(script, **options)) as url:
        yield url, script
