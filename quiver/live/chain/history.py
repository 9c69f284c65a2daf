"""Final transactions of the contract as ledger events, from a node."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from quiver.errors import Unavailable
from quiver.ids import Address, ChannelId
from quiver.live.chain.answers import address_of, read_logs
from quiver.live.chain.logs import ChainLog, opened_channel
from quiver.live.chain.reading import decode_call
from quiver.live.chain.rpc_client import Rpc, quantity
from quiver.values.ledger import LedgerEvent, OpenChannel, Transaction


async def read_events(
    rpc: Rpc,
    logs: Sequence[ChainLog],
    *,
    contract: Address,
    own: Collection[Address],
    stake: int,
    leaf_counts: Mapping[int, int],
    first_index: int,
) -> list[LedgerEvent]:
    """One event a transaction, in the chain's order; with its gas where the sender is one of `own`.

    A call that came through another contract shows in the views, but what was asked is not in its transaction: no event.
    """
    by_transaction: dict[bytes, list[ChainLog]] = {}
    for one in logs:
        by_transaction.setdefault(one.transaction, []).append(one)
    told = await _ask(rpc, "eth_getTransactionByHash", by_transaction)
    blocks = list(dict.fromkeys(one.block for one in logs))
    headers = await rpc.results([("eth_getBlockByNumber", (hex(number), False)) for number in blocks])
    at_ms = {number: quantity(header["timestamp"]) * 1000 for number, header in zip(blocks, headers, strict=True)}
    calls: list[tuple[bytes, Transaction]] = []
    for key, data in told.items():
        if data["to"] is None or address_of(data["to"]) != contract:
            continue
        calldata = bytes.fromhex(data["input"][2:])
        transaction = decode_call(address_of(data["from"]), calldata, lambda epoch: leaf_counts.get(epoch, 0))
        if transaction is not None:
            calls.append((key, transaction))
    receipts = await _ask(
        rpc, "eth_getTransactionReceipt", [key for key, transaction in calls if transaction.sender in own]
    )
    events = []
    for index, (key, transaction) in enumerate(calls, first_index):
        entries = [one.log for one in by_transaction[key]]
        moved = read_logs(entries, stake=stake)
        events.append(
            LedgerEvent(
                index=index,
                at_ms=at_ms[by_transaction[key][0].block],
                transaction=transaction,
                channel=opened_channel(entries) if isinstance(transaction, OpenChannel) else _channel_of(transaction),
                paid=moved.paid,
                refunded=moved.refunded,
                slashed=moved.slashed,
                gas_wei=gas_of(receipts[key]) if key in receipts else 0,
            )  # fmt: skip
        )
    return events


async def _ask(rpc: Rpc, method: str, hashes: Collection[bytes]) -> dict[bytes, dict[str, Any]]:
    answers = await rpc.results([(method, ("0x" + one.hex(),)) for one in hashes])
    found = dict(zip(hashes, answers, strict=True))
    if any(answer is None for answer in answers):
        raise Unavailable(f"a node of chain {rpc.chain_id} shows a log whose transaction it does not know yet")
    return found


def gas_of(receipt: Mapping[str, Any]) -> int:
    """Wei that a transaction cost its sender."""
    return quantity(receipt["gasUsed"]) * quantity(receipt["effectiveGasPrice"])


def _channel_of(transaction: Transaction) -> ChannelId | None:
    ack = getattr(transaction, "acknowledgement", None)
    channel: ChannelId | None = getattr(transaction, "channel", None) if ack is None else ack.channel
    return channel
