"""A gateway's door for its operator: clients' credit, while the gateway runs.

A listener of its own on this machine's loopback address, because a proxy in front of the clients' doors makes every stranger look
like this machine. Who asks must hold the admin key, which is made of the node's secret key: there is no further secret to keep.

| method | path | answer |
|---|---|---|
| GET | /credit | all accounts |
| POST | /credit | body: id (32 hex digits), account, amount; the account. The same id again gives nothing twice |
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from quiver.errors import QuiverError, UsageError
from quiver.gateway.till import Till
from quiver.live.http.door import json_response
from quiver.live.http.serve import start
from quiver.live.teller import Teller

LOOPBACK = "127.0.0.1"
BODY_BYTES_MAX = 4096
# Signed with the node's Ed25519 key, whose signatures are deterministic; nothing else that is signed begins like this.
ADMIN_MESSAGE = b"quiver gateway admin key 1"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class GrantBody(msgspec.Struct, forbid_unknown_fields=True):
    """Of `POST /credit`."""

    id: str
    account: str
    amount: int


def make_admin_key(signature: bytes) -> str:
    """Of the node's signature over `ADMIN_MESSAGE`."""
    return hashlib.sha256(signature).hexdigest()


class AdminDoor:
    """Handlers over one teller."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller

    def routes(self) -> list[web.RouteDef]:
        """See the top of this file."""
        return [web.get("/credit", self.show), web.post("/credit", self.add)]

    async def show(self, request: web.Request) -> web.Response:
        """Everybody."""
        return json_response(self._teller.views())

    async def add(self, request: web.Request) -> web.Response:
        """Give or take back."""
        body = msgspec.json.decode(await request.read(), type=GrantBody)
        return json_response(await self._teller.grant(bytes.fromhex(body.id), body.account, body.amount))


def make_admin_app(teller: Teller, key: str) -> web.Application:
    """Serve it on loopback only."""

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        presented = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), key.encode()):
            return _refuse(401, "the admin key is wrong: use `credit` with this gateway's own config")
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _refuse(error.status, f"{request.method} {request.path}: {error.reason}")
        except (UsageError, ValueError, RecursionError) as error:
            return _refuse(400, str(error))
        except QuiverError as error:
            return _refuse(503, str(error))

    app = web.Application(middlewares=[guard], client_max_size=BODY_BYTES_MAX)
    app.add_routes(AdminDoor(teller).routes())
    return app


def _refuse(status: int, message: str) -> web.Response:
    return json_response({"error": message}, status=status)


@asynccontextmanager
async def admin_door(till: Till | None, port: int) -> AsyncIterator[None]:
    """Open while the block runs, where there is a till and a port for it."""
    if till is None or not port:
        yield
        return
    runtime = till.runtime
    key = make_admin_key(await runtime.signer.sign(ADMIN_MESSAGE))
    teller = Teller(till.budget, till.accounts, runtime.store, runtime.clock)
    runner = await start(make_admin_app(teller, key), LOOPBACK, port)
    try:
        yield
    finally:
        await runner.cleanup()
