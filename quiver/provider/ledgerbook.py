"""The provider's durable tables: channels, receipts not yet collected, the generation counter.

Rules of this file: it builds batches and reads them back; the flows commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from quiver.ids import ChannelId
from quiver.ports import Store
from quiver.values.receipt import Acknowledgement, ChannelHead, SignedReceipt

CHANNELS, RECEIPTS, NODE = "provider_channels", "provider_receipts", "provider_node"
_GENERATION = b"generation"


class ChannelRow(msgspec.Struct, frozen=True, kw_only=True):
    """What must survive a crash about one channel."""

    head: ChannelHead
    acknowledgement: Acknowledgement | None = None
    collected: ChannelHead = ChannelHead()
    "Up to here the aggregator has the receipts."


_encode = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(ChannelRow).decode
_decode_receipt = msgspec.msgpack.Decoder(SignedReceipt).decode

Put = tuple[str, bytes, bytes | None]


def put_channel(channel: ChannelId, row: ChannelRow) -> Put:
    """Replace a channel's row."""
    return CHANNELS, channel, _encode(row)


def put_receipt(signed: SignedReceipt) -> Put:
    """Keep a receipt until the aggregator has it."""
    return RECEIPTS, signed.body.channel + signed.body.seq.to_bytes(8, "big"), _encode(signed)


def drop_receipt(channel: ChannelId, seq: int) -> Put:
    """The aggregator has it."""
    return RECEIPTS, channel + seq.to_bytes(8, "big"), None


def channels(store: Store) -> Iterator[tuple[ChannelId, ChannelRow]]:
    """All channels ever authorised."""
    for key, value in store.scan(CHANNELS):
        yield ChannelId(key), _decode_row(value)


def channel(store: Store, channel_id: ChannelId) -> ChannelRow | None:
    """One channel's row."""
    value = store.get(CHANNELS, channel_id)
    return None if value is None else _decode_row(value)


def receipts(store: Store, channel_id: ChannelId) -> Sequence[SignedReceipt]:
    """Receipts of a channel that the aggregator does not have yet, in seq order."""
    return [_decode_receipt(value) for _, value in store.scan(RECEIPTS, channel_id)]


def next_generation(store: Store) -> tuple[int, Put]:
    """A number larger than that of every earlier start, and the put that makes it durable."""
    old = store.get(NODE, _GENERATION)
    generation = 1 + (int.from_bytes(old, "big") if old else 0)
    return generation, (NODE, _GENERATION, generation.to_bytes(8, "big"))
