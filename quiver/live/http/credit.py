"""A client's own account at its gateway: what it holds, and paying in by channel.

| method | path | answer |
|---|---|---|
| GET | /credit | the account, and where its gateway is paid: account, chain, contract, and the least it takes by channel (0: nothing) |
| POST | /credit | body: an acknowledgement, as in a `quiver` object, over a channel to that account; what it gave, and the account |
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from quiver.errors import MalformedMessage, QuiverError
from quiver.gateway.prepay import Prepayments
from quiver.live.client.verify import decode_acknowledgement
from quiver.live.http.door import Door, json_response
from quiver.live.http.problem import Problem, problem_of_error
from quiver.live.teller import Teller
from quiver.runtime import Runtime


class CreditDoor:
    """Handlers of `/credit`."""

    def __init__(self, door: Door, runtime: Runtime, teller: Teller, prepay: Prepayments | None) -> None:
        self._door = door
        self._runtime = runtime
        self._teller = teller
        self._prepay = prepay

    def routes(self) -> list[web.RouteDef]:
        """For `Application.add_routes`."""
        return [web.get("/credit", self.show), web.post("/credit", self.pay)]

    async def show(self, request: web.Request) -> web.Response:
        """GET /credit."""
        account, ledger = self._account(request), self._runtime.ledger
        paid_at = {
            "account": "0x" + self._runtime.signer.account.hex(), "chain_id": ledger.chain_id,
            "contract": "0x" + ledger.contract.hex(), "credits_min": self._prepay.credits_min if self._prepay else 0,
        }  # fmt: skip
        return json_response({**msgspec.structs.asdict(self._teller.view(account)), "paid_at": paid_at})

    async def pay(self, request: web.Request) -> web.Response:
        """POST /credit."""
        account = self._account(request)
        if self._prepay is None:
            raise Problem(404, "this gateway takes no channels of clients: ask its operator for credit")
        try:
            body = msgspec.json.decode(await self._door.read(request), type=dict[str, Any])
            acknowledgement = decode_acknowledgement(body)
        except (msgspec.MsgspecError, ValueError, RecursionError, MalformedMessage) as error:
            raise Problem(400, f"the body is no acknowledgement: {error}") from error
        try:
            given = await self._prepay.take(account, acknowledgement)
        except QuiverError as error:
            raise problem_of_error(error) from error
        return json_response({"given": given, **msgspec.structs.asdict(self._teller.view(account))})

    def _account(self, request: web.Request) -> str:
        name = self._door.admit(request).name
        if not self._teller.sells_to(name):
            raise Problem(404, "whoever asks with this key is served without an account")
        return name
