"""Clients that prepay by channel: one they opened to this gateway's account, and an acknowledgement over what they pay in.

Rules of this file: it awaits; the ledger says what was paid, and that alone is credited. A channel is bound to an account, durably,
before its money is asked for, and what the ledger has paid since is credited in one batch with how far that goes: whatever a crash
interrupts, the next look credits it, once. What was paid before a channel was bound belongs to nobody here: its acknowledgement was
public then.
"""

from __future__ import annotations

import hashlib

import msgspec

from quiver.errors import (
    BadSignature,
    Busy,
    ReceiptMismatch,
    RejectionReason,
    RequestRejected,
    SettlementError,
    Unavailable,
)
from quiver.gateway.budget import GRANT_ID_BYTES, Budget
from quiver.ids import ChannelId
from quiver.receipts.signatures import verify_acknowledgement
from quiver.runtime import Runtime
from quiver.settlement.channel import compute_due, session_at
from quiver.values.ledger import ChannelState, ClaimDirect
from quiver.values.receipt import Acknowledgement

TABLE = "gateway_prepaid"
# Claims on their way at once; each waits for the ledger, which takes blocks.
UNDER_WAY_MAX = 16


class Prepaid(msgspec.Struct, frozen=True, kw_only=True):
    """Row: whom a channel pays for, and how much of what the ledger paid is credited."""

    account: str
    credited: int


_PREPAID = msgspec.msgpack.Decoder(Prepaid)


class Prepayments:
    """Shares the till's budget."""

    def __init__(self, runtime: Runtime, budget: Budget, *, credits_min: int) -> None:
        """`credits_min`: less is not worth a claim, which costs this gateway gas."""
        self.credits_min = credits_min
        self._runtime = runtime
        self._budget = budget
        self._rows = {ChannelId(key): _PREPAID.decode(row) for key, row in runtime.store.scan(TABLE)}
        self._under_way: set[ChannelId] = set()

    async def run(self) -> None:
        """Credit what the ledger paid and nobody was here to see: we crashed, or the client left before it was final."""
        while True:
            for channel in sorted(self._rows):
                await self._credit(channel)
            await self._runtime.clock.sleep(self._runtime.params.discovery_refresh_s)

    async def take(self, account: str, ack: Acknowledgement) -> int:
        """Credits given for an acknowledgement, durable at return. `RequestRejected` for one that pays us nothing; `Unavailable`."""
        channel = ack.channel
        if channel in self._under_way or len(self._under_way) >= UNDER_WAY_MAX:
            raise Busy("a claim is under way: wait for it", retry_after_s=1.0)
        self._under_way.add(channel)
        try:
            state = await self._check(account, ack)
            # Of a claim that was final when we crashed.
            given = await self._credit(channel) if channel in self._rows else 0
            due = compute_due(state, ack.cum)
            if due < self.credits_min:
                if given:
                    return given
                raise _refuse(
                    f"this acknowledgement brings {due} credits: {state.paid} of {state.locked} locked ones are paid "
                    f"already, and {self.credits_min} are the least that is taken",
                    RejectionReason.NOT_ON_LEDGER,
                )
            await self._bind(account, state)
            await self._claim(ack)
            return given + await self._credit(channel)
        finally:
            self._under_way.discard(channel)

    async def _check(self, account: str, ack: Acknowledgement) -> ChannelState:
        runtime, ledger = self._runtime, self._runtime.ledger
        state = ledger.channel(ack.channel)
        if state is None or state.provider != runtime.signer.account:
            raise _refuse(
                f"there is no channel {ack.channel.hex()} to this gateway's account 0x{runtime.signer.account.hex()}",
                RejectionReason.NOT_ON_LEDGER,
            )
        bound = self._rows.get(ack.channel)
        if bound is not None and bound.account != account:
            raise _refuse("this channel pays for another account")
        session = session_at(state, runtime.clock.utc_ms())
        try:
            await verify_acknowledgement(
                runtime.verifier, ack, chain_id=ledger.chain_id, contract=ledger.contract, session=session
            )
        except (BadSignature, ReceiptMismatch) as error:
            raise _refuse(str(error)) from error
        return state

    async def _bind(self, account: str, state: ChannelState) -> None:
        if state.channel not in self._rows:
            row = self._rows[state.channel] = Prepaid(account=account, credited=state.paid)
            await self._runtime.store.commit([(TABLE, state.channel, msgspec.msgpack.encode(row))])

    async def _claim(self, ack: Acknowledgement) -> None:
        try:
            await self._runtime.ledger.submit(ClaimDirect(sender=self._runtime.signer.account, acknowledgement=ack))
        except SettlementError as error:
            if error.reason != "nothing_due":
                raise Unavailable(f"the ledger refuses the claim: {error}") from error

    async def _credit(self, channel: ChannelId) -> int:
        row, state = self._rows[channel], self._runtime.ledger.channel(channel)
        paid = row.credited if state is None else max(state.paid, row.credited)
        given = paid - row.credited
        if given:
            # The sums it goes from and to make its id: one step is one grant.
            step = row.credited.to_bytes(8, "big") + paid.to_bytes(8, "big")
            grant_id = hashlib.sha256(b"prepaid" + channel + step).digest()[:GRANT_ID_BYTES]
            rows = self._budget.grant(grant_id, row.account, given, at_ms=self._runtime.clock.utc_ms())
            row = self._rows[channel] = Prepaid(account=row.account, credited=paid)
            await self._runtime.store.commit([*rows, (TABLE, channel, msgspec.msgpack.encode(row))])
        return given


def _refuse(message: str, reason: RejectionReason = RejectionReason.BAD_REQUEST) -> RequestRejected:
    return RequestRejected(reason, message)
