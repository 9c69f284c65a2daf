"""Transactions of one account between their first byte and their finality: durable before they are sent, so no crash sends one twice.

Rules of this file: an account has one outbox and no other sender; nonces are given out in order and never again; a row is only
changed by a replacement of the same nonce with higher fees, of which the chain takes one.
"""

from __future__ import annotations

import msgspec

from quiver.ids import Address
from quiver.live.chain.envelope import Envelope, Sign, hash_signed, sign_envelope
from quiver.live.chain.fees import Fees
from quiver.live.chain.spent import SPENT, Spent, account_prefix
from quiver.ports import Store

OUTBOX = "chain_outbox"
"Table: chain id 8 bytes | account 20 | nonce 8 -> `Waiting`."


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One nonce in use."""

    envelope: Envelope
    fees: Fees
    "Of the last version."
    signed: tuple[bytes, ...]
    "Every version ever sent: any of them may be the one that is mined."

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Of the versions, oldest first."""
        return tuple(map(hash_signed, self.signed))


class Outbox:
    """Rows in nonce order. What was there at the start came from an earlier process: see `adopt`."""

    def __init__(self, store: Store, account: Address, *, chain_id: int, sign: Sign) -> None:
        self._store = store
        self._chain_id = chain_id
        self._sign = sign
        self._prefix = account_prefix(chain_id, account)
        decode = msgspec.msgpack.Decoder(Waiting).decode
        self.waiting = {int.from_bytes(key[-8:], "big"): decode(row) for key, row in store.scan(OUTBOX, self._prefix)}
        self._orphans = list(self.waiting)
        self._last = max(self.waiting, default=-1)

    def next_nonce(self, mined: int) -> int:
        """The one after all of ours and all that the chain has taken, as far as a node that may lag behind knows."""
        return max(mined, self._last + 1)

    def adopt(self, to: Address, calldata: bytes, value: int) -> int | None:
        """Nonce of the same call left by an earlier process: asking again after a crash must not do it twice. Each only once."""
        for nonce in self._orphans:
            row = self.waiting.get(nonce)
            if row is not None and (row.envelope.to, row.envelope.calldata, row.envelope.value) == (
                to,
                calldata,
                value,
            ):
                self._orphans.remove(nonce)
                return nonce
        return None

    async def add(self, envelope: Envelope, fees: Fees) -> None:
        """Sign and keep; returns once it is durable."""
        signed = sign_envelope(envelope, fees, chain_id=self._chain_id, sign=self._sign)
        await self._put(Waiting(envelope=envelope, fees=fees, signed=(signed,)))
        self._last = max(self._last, envelope.nonce)

    async def replace(self, nonce: int, fees: Fees) -> None:
        """The same call for more."""
        row = self.waiting[nonce]
        signed = sign_envelope(row.envelope, fees, chain_id=self._chain_id, sign=self._sign)
        await self._put(msgspec.structs.replace(row, fees=fees, signed=(*row.signed, signed)))

    async def _put(self, row: Waiting) -> None:
        nonce = row.envelope.nonce
        await self._store.commit([(OUTBOX, self._key(nonce), msgspec.msgpack.encode(row))])
        self.waiting[nonce] = row
        self.waiting = dict(sorted(self.waiting.items()))

    async def remove(self, nonce: int, spent: Spent | None = None) -> None:
        """It is final, or can never be mined. `spent`: what it cost, if nobody else will tell."""
        rows: list[tuple[str, bytes, bytes | None]] = [(OUTBOX, self._key(nonce), None)]
        if spent is not None:
            rows.append((SPENT, self._key(nonce), msgspec.msgpack.encode(spent)))
        # First on disk: whoever waits for it is told by a later step if the disk fails now.
        await self._store.commit(rows)
        del self.waiting[nonce]

    def _key(self, nonce: int) -> bytes:
        return self._prefix + nonce.to_bytes(8, "big")
