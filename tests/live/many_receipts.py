"""A store as an aggregator leaves it behind after a million receipts; nobody signed them, since a restart verifies none."""

from __future__ import annotations

import hashlib

import msgspec

from quiver.aggregator.window import CHANNELS, LEAVES, RECEIPTS, Entry, KeptReceipt, KnownChannel, epoch_key
from quiver.ids import Address, ChannelId, ModelId, RequestId
from quiver.values.ledger import Leaf
from quiver.values.receipt import Acknowledgement, ChannelHead, ReceiptBody, SignedReceipt

ROWS_PER_COMMIT = 50_000
_encode = msgspec.msgpack.Encoder().encode


def make_channels(count):
    """Of nobody."""
    for number in range(count):
        yield ChannelId(hashlib.sha256(b"channel %d" % number).digest()), Address(bytes(20))


def make_rows(each, *, channels, epoch, key, contract):
    """`each` receipts of the open `epoch` for every one of `channels` (pairs of its id and the provider's account), under one key."""
    for channel, provider in channels:
        prefix = epoch_key(epoch) + channel
        for seq in range(1, each + 1):
            body = ReceiptBody(
                chain_id=31337, contract=contract, channel=channel, request_id=RequestId(seq.to_bytes(16, "big")),
                seq=seq, provider_key=key, payer=Address(bytes(20)), request_hash=bytes(32), response_hash=bytes(32),
                model=ModelId(bytes(32)), prompt_tokens=100, completion_tokens=200, amount=5, cum=5 * seq,
                issued_ms=1_700_000_000_000 + seq,
            )  # fmt: skip
            kept = KeptReceipt(receipt=SignedReceipt(body=body, signature=bytes(64)), head=bytes(32))
            yield (RECEIPTS, prefix + seq.to_bytes(8, "big"), _encode(kept))
        ack = Acknowledgement(channel=channel, seq=each, cum=5 * each, head=bytes(32), signature=bytes(65))
        head = ChannelHead(seq=each, cum=5 * each, head=bytes(32))
        known = KnownChannel(head=head, epoch=epoch, provider_key=key, acknowledgement=ack)
        leaf = Leaf(epoch=epoch, channel=channel, cum=5 * each, seq=each, head=bytes(32))
        yield (CHANNELS, channel, _encode(known))
        yield (LEAVES, prefix, _encode(Entry(leaf=leaf, provider=provider, acknowledgement=ack)))


async def write(store, rows):
    """Commit `rows`, some thousand at a time."""
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS_PER_COMMIT:
            await store.commit(batch)
            batch = []
    await store.commit(batch)
