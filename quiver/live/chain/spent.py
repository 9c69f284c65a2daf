"""Gas that no event of the ledger tells of: of transactions that were reverted, allowed a token to be taken, or filled a nonce.

Rules of this file: no I/O but the store's; nothing of the chain's client, so that reports need none.
"""

from __future__ import annotations

import msgspec

from quiver.ids import Address
from quiver.ports import Store

SPENT = "chain_spent"
"Table: chain id 8 bytes | account 20 | nonce 8 -> `Spent`."


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """One final transaction."""

    at_ms: int
    "Of its block."
    gas_wei: int


def account_prefix(chain_id: int, account: Address) -> bytes:
    """Of an account's rows on one chain."""
    return chain_id.to_bytes(8, "big") + account


def read_spent(store: Store, account: Address, *, chain_id: int) -> list[Spent]:
    """In the order of nonces."""
    decode = msgspec.msgpack.Decoder(Spent).decode
    return [decode(row) for _, row in store.scan(SPENT, account_prefix(chain_id, account))]
