"""Run by test_shared_ledgers: one process of a devnet tops up its own channel `count` times."""

from __future__ import annotations

import asyncio
import sys

from quiver.identity.signing import ack_domain
from quiver.ids import Address, compute_channel_id
from quiver.live.chain.local import LocalLedger
from quiver.live.chain.shared_evm import SharedEvmLedger, shared_contract
from quiver.params import Params
from quiver.values.ledger import Deposit, OpenChannel, TopUp

CHAIN_ID, AGGREGATOR, PROVIDER = 7, Address(b"\x0a" * 20), Address(b"\x0b" * 20)
KINDS = {"local": LocalLedger, "evm": SharedEvmLedger}
HUBS = {"local": Address(b"\x0c" * 20), "evm": shared_contract(AGGREGATOR)}


class FixedClock:
    """A devnet's time does not matter here."""

    def utc_ms(self) -> int:
        return 1_700_000_000_000


def open_ledger(kind: str, path: str, account: Address, **changed: object) -> LocalLedger | SharedEvmLedger:
    settings = {
        "chain_id": CHAIN_ID,
        "contract": HUBS[kind],
        "aggregator": AGGREGATOR,
        "params": Params.minimal(),
        "clock": FixedClock(),
    }
    return KINDS[kind](path, account, **(settings | changed))


def channel_of(kind: str, account: Address) -> bytes:
    return compute_channel_id(ack_domain(CHAIN_ID, HUBS[kind]), account, PROVIDER, 0)


async def main(kind: str, path: str, number: int, count: int) -> None:
    account = Address(bytes([number]) * 20)
    ledger = open_ledger(kind, path, account)
    await ledger.submit(Deposit(sender=account, amount=1000))
    await ledger.submit(OpenChannel(sender=account, provider=PROVIDER, session=account, amount=1, nonce=0))
    for _ in range(count):
        await ledger.submit(TopUp(sender=account, channel=channel_of(kind, account), amount=2))
    await ledger.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
