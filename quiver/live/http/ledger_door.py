"""An aggregator over HTTP: receipts come in, and everything that is published or proven goes out. For strangers and scripts.

Who posts a batch is irrelevant: its receipts carry the provider's signature and its acknowledgement the payer's, and they go the
way of a stream's. Nobody is authenticated, so a bad batch is refused and held against nobody.

| method | path | answer |
|---|---|---|
| POST | /v1/receipts | body: frame `S`, as on a stream; frame `I`, or JSON with `error` |
| GET | /v1/epochs/N | status, commitment, signature, published |
| GET | /v1/content/SHA256 | a manifest or page, immutable |
| GET | /v1/proofs/N/CHANNEL | leaf, proof, acknowledgement, commitment, signature |
| GET | /v1/usage?by=provider&by=epoch | sums, as `python -m quiver.live analytics` |
| GET | /health | ok, and the epoch that is open |
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from quiver.aggregator.budget import Budget
from quiver.aggregator.service import AggregatorService
from quiver.aggregator.usage import BY, summarise
from quiver.errors import PeerError, Unavailable, UsageError
from quiver.gateway.admission import TokenBucket
from quiver.ids import DIGEST_BYTES, ChannelId, PeerId
from quiver.live.http.door import json_response
from quiver.live.log import plain
from quiver.runtime import Runtime
from quiver.values.frames import AskContent, AskEpoch, AskProof, SubmitReceipts
from quiver.wire.protocols import RECEIPTS

_log = logging.getLogger(__name__)

# Batches being checked at once; each may hold 4 MiB.
SUBMISSIONS_MAX = 16
# Of one address: batches a second, and at once.
BATCHES_PER_S, BATCHES_AT_ONCE = 20.0, 100.0
ADDRESSES_MAX = 4096
# What `/v1/usage` costs in budget units: it reads all kept rows.
USAGE_PRICE = 64.0
MESSAGEPACK = "application/msgpack"
_NOBODY = PeerId(b"")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LedgerDoor:
    """Routes over one aggregator."""

    def __init__(self, service: AggregatorService, runtime: Runtime) -> None:
        self._service = service
        self._runtime = runtime
        self._budget = Budget()
        self._open = 0
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def routes(self) -> list[web.RouteDef]:
        """See the top of this file."""
        return [
            web.post("/v1/receipts", self.take),
            web.get(r"/v1/epochs/{epoch:\d{1,20}}", self.tell_epoch),
            web.get(r"/v1/content/{name:[0-9a-f]{64}}", self.give),
            web.get(r"/v1/proofs/{epoch:\d{1,20}}/{channel:[0-9a-f]{64}}", self.prove),
            web.get("/v1/usage", self.sum_up),
            web.get("/health", self.health),
        ]

    async def take(self, request: web.Request) -> web.Response:
        """One batch."""
        if wait_s := self._bucket(request.remote or "").take(self._runtime.clock.now()):
            raise Unavailable("too many batches from this address", retry_after_s=wait_s)
        with self._room():
            frame = RECEIPTS.decode(await request.read())
            if not isinstance(frame, SubmitReceipts):
                raise PeerError(f"{type(frame).__name__} is not a batch of receipts")
            key = frame.receipts[0].body.provider_key if frame.receipts else b""
            answer = await self._service.submit(key, frame)
        return web.Response(body=RECEIPTS.encode(answer), content_type=MESSAGEPACK)

    @contextmanager
    def _room(self) -> Iterator[None]:
        if self._open >= SUBMISSIONS_MAX:
            raise Unavailable(f"{SUBMISSIONS_MAX} batches are being checked", retry_after_s=1.0)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def _bucket(self, address: str) -> TokenBucket:
        bucket = self._buckets.get(address)
        if bucket is None:
            now = self._runtime.clock.now()
            bucket = self._buckets[address] = TokenBucket(rate=BATCHES_PER_S, burst=BATCHES_AT_ONCE, now=now)
            if len(self._buckets) > ADDRESSES_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(address)
        return bucket

    async def _pay(self, units: float) -> None:
        """All readers over HTTP are one stranger."""
        clock = self._runtime.clock
        if wait_s := self._budget.take(_NOBODY, units, known=False, now=clock.now()):
            await clock.sleep(wait_s)

    async def tell_epoch(self, request: web.Request) -> web.Response:
        """Where an epoch stands."""
        await self._pay(0.25)
        return json_response(_shown(self._service.answers.tell_epoch(AskEpoch(epoch=int(request.match_info["epoch"])))))

    async def give(self, request: web.Request) -> web.Response:
        """Published bytes; a cache may keep them for ever."""
        await self._pay(1.0)
        name = bytes.fromhex(request.match_info["name"])
        data = self._service.answers.give(AskContent(name=name)).data
        if data is None:
            raise web.HTTPNotFound(text="this aggregator holds no such content")
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "ETag": f'"{name.hex()}"'}
        return web.Response(body=data, content_type=MESSAGEPACK, headers=headers)

    async def prove(self, request: web.Request) -> web.Response:
        """A channel's leaf and proof."""
        await self._pay(1.0)
        channel = ChannelId(bytes.fromhex(request.match_info["channel"]))
        assert len(channel) == DIGEST_BYTES
        answer = self._service.answers.prove(AskProof(epoch=int(request.match_info["epoch"]), channel=channel))
        if answer.leaf is None:
            raise web.HTTPNotFound(text="the epoch is open, unknown, or holds no such channel")
        return json_response(_shown(answer))

    async def sum_up(self, request: web.Request) -> web.Response:
        """Usage."""
        await self._pay(USAGE_PRICE)
        return json_response(summarise(self._runtime.store, request.query.getall("by", list(BY))))

    async def health(self, request: web.Request) -> web.Response:
        """Whether receipts are taken, and promised."""
        epoch = self._service.window.epoch_at(self._runtime.clock.utc_ms())
        return json_response({"status": "ok", "epoch": epoch, "promises": self._service.bonding.is_binding})


def _shown(value: Any) -> Any:
    return {name: item for name, item in plain(value).items() if name != "type"}


def make_ledger_app(service: AggregatorService, runtime: Runtime) -> web.Application:
    """The application; serve it with `quiver.live.http.serve.start`."""
    app = web.Application(middlewares=[_shape_errors], client_max_size=RECEIPTS.frame_bytes_max)
    app.add_routes(LedgerDoor(service, runtime).routes())
    return app


@web.middleware
async def _shape_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal is JSON with a name."""
    try:
        return await handler(request)
    except PeerError as error:
        status = 429 if error.wire_code.name == "RATE_LIMITED" else 400
        return _refuse(status, error.wire_code.name.lower(), str(error))
    except Unavailable as error:
        return _refuse(503, "unavailable", str(error), retry_after_s=error.retry_after_s or 1.0)
    except UsageError as error:
        return _refuse(400, "bad_request", str(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _refuse(error.status, error.reason.lower().replace(" ", "_"), error.text or error.reason)
    except ConnectionError:
        raise
    except Exception:
        _log.exception("a request failed by a bug in the aggregator")
        return _refuse(500, "internal", "the aggregator failed; the operator's log says why")


def _refuse(status: int, name: str, message: str, *, retry_after_s: float | None = None) -> web.Response:
    headers = None if retry_after_s is None else {"Retry-After": str(max(1, round(retry_after_s)))}
    return json_response({"error": name, "message": message}, status=status, headers=headers)
