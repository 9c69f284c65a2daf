"""Which receipts belong to which epoch: the aggregator's memory of every channel, as events in and store batches out.

Rules of this file: no I/O but reading the store at start, no clock (`utc_ms` is an argument), no signature is verified here: what
comes in was verified. An epoch is utc_ms // epoch_ms at ingest and never goes back; a closed epoch never changes.
A method checks, changes the window and returns the batch to commit; batches are committed in the order they were returned.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence

import msgspec

from quiver.errors import ReceiptMismatch, Unavailable
from quiver.ids import Address, ChannelId
from quiver.params import Params
from quiver.ports import Batch, Store
from quiver.values.ledger import ChannelState, Leaf
from quiver.values.receipt import Acknowledgement, ChannelHead, SignedReceipt

CHANNELS, LEAVES, RECEIPTS, META = "aggregator_channels", "aggregator_leaves", "aggregator_receipts", "aggregator_meta"
# About 400 bytes a channel in memory: a million channels are 0.4 GB.
CHANNELS_MAX = 1 << 20
_NEXT_OPEN = b"next_open"


class KnownChannel(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Row of `aggregator_channels`: where a channel stands, and the epoch it was last active in."""

    head: ChannelHead
    epoch: int
    provider_key: bytes = b""
    "Ed25519 key that signs its receipts: whoever has it may ask for the acknowledgement."
    acknowledgement: Acknowledgement | None = None
    "The newest; both are missing in a row written before they were kept."


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Row of `aggregator_leaves`: a channel's last acknowledged state in an epoch."""

    leaf: Leaf
    provider: Address
    acknowledgement: Acknowledgement


class KeptReceipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Row of `aggregator_receipts`: the audit ledger. `head` is the channel's head after it."""

    receipt: SignedReceipt
    head: bytes


class Ingest(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch did, and what to commit before answering."""

    epoch: int
    accepted: int
    duplicates: int
    head: ChannelHead
    "Where the channel stands in `epoch` now: what may be promised once `batch` is durable."
    batch: Batch


class _Standing(msgspec.Struct, frozen=True, gc=False):
    """What memory holds of a channel; its row has the rest."""

    head: ChannelHead
    epoch: int


class _Active(msgspec.Struct, frozen=True, gc=False):
    """What memory holds of a channel's entry in an open epoch: what it shares with others is held once."""

    head: ChannelHead
    provider: Address
    signature: bytes

    def entry(self, epoch: int, channel: ChannelId) -> Entry:
        """As its row has it."""
        at = self.head
        return Entry(
            leaf=Leaf(epoch=epoch, channel=channel, cum=at.cum, seq=at.seq, head=at.head), provider=self.provider,
            acknowledgement=Acknowledgement(
                channel=channel, seq=at.seq, cum=at.cum, head=at.head, signature=self.signature
            ),
        )  # fmt: skip


class _StoredStanding(msgspec.Struct, frozen=True, gc=False):
    """What a restart reads of a `KnownChannel`: a million whole ones would take twice the time."""

    head: ChannelHead
    epoch: int
    provider_key: bytes = b""


class _StoredSignature(msgspec.Struct, frozen=True, gc=False):
    signature: bytes


class _StoredActive(msgspec.Struct, frozen=True, gc=False):
    """What a restart reads of an `Entry` whose leaf is where the channel stands."""

    provider: Address
    acknowledgement: _StoredSignature


HeadAt = Callable[[int, ChannelId, int], bytes | None]
"""(epoch, channel, seq) -> the kept head after that receipt, None when it is not kept."""

_ENCODE = msgspec.msgpack.Encoder().encode
_CHANNEL = msgspec.msgpack.Decoder(KnownChannel)
_ENTRY = msgspec.msgpack.Decoder(Entry)
_STORED_STANDING = msgspec.msgpack.Decoder(_StoredStanding)
_STORED_ACTIVE = msgspec.msgpack.Decoder(_StoredActive)
_KEPT = msgspec.msgpack.Decoder(KeptReceipt)


class Window:
    """Known channels, and the entries of epochs that are still open."""

    def __init__(self, params: Params) -> None:
        self._epoch_ms = params.epoch_ms
        self._channels: dict[ChannelId, _Standing] = {}
        self._of_provider: dict[bytes, list[ChannelId]] = {}
        self._open: dict[int, dict[ChannelId, _Active]] = {}
        self._next_open = 0

    @classmethod
    def load(cls, store: Store, params: Params) -> Window:
        """As last committed."""
        self = cls(params)
        if (row := store.get(META, _NEXT_OPEN)) is not None:
            self._next_open = int.from_bytes(row, "big")
        for key, row in store.scan(CHANNELS):
            stored = _STORED_STANDING.decode(row)
            channel = ChannelId(key)
            self._channels[channel] = _Standing(stored.head, stored.epoch)
            # In key order, so each list is sorted.
            self._of_provider.setdefault(stored.provider_key, []).append(channel)
        accounts: dict[Address, Address] = {}
        for key, row in store.scan(LEAVES):
            # By the leaves, not by the channels: these may have moved on to a newer epoch while an older one is still open.
            if (epoch := int.from_bytes(key[:8], "big")) >= self._next_open:
                channel = ChannelId(key[8:])
                standing, active = self._channels.get(channel), _STORED_ACTIVE.decode(row)
                if standing is not None and standing.epoch == epoch:
                    head = standing.head
                else:
                    leaf = _ENTRY.decode(row).leaf
                    head = ChannelHead(seq=leaf.seq, cum=leaf.cum, head=leaf.head)
                provider = accounts.setdefault(active.provider, active.provider)
                self._open.setdefault(epoch, {})[channel] = _Active(head, provider, active.acknowledgement.signature)
        return self

    @property
    def next_open(self) -> int:
        """All epochs before it are closed."""
        return self._next_open

    def epoch_at(self, utc_ms: int) -> int:
        """Epoch that receipts arriving now belong to: by the clock, but never one that is closed."""
        return max(utc_ms // self._epoch_ms, self._next_open)

    def head(self, channel: ChannelId) -> ChannelHead | None:
        """Where a channel stands here; None if it was never seen."""
        known = self._channels.get(channel)
        return None if known is None else known.head

    def channels_of(self, provider_key: bytes, after: ChannelId | None, limit: int) -> Sequence[ChannelId]:
        """Up to `limit` channels whose receipts this key signs, in ascending order, the first behind `after`."""
        channels = self._of_provider.get(provider_key, [])
        start = 0 if after is None else bisect_right(channels, after)
        return channels[start : start + limit]

    def knows(self, provider_key: bytes) -> bool:
        """Whether receipts of this key were ever taken."""
        return provider_key in self._of_provider

    def ingest(
        self,
        state: ChannelState,
        previous: ChannelHead,
        receipts: tuple[SignedReceipt, ...],
        heads: list[ChannelHead],
        ack: Acknowledgement,
        *,
        utc_ms: int,
        head_at: HeadAt,
    ) -> Ingest:
        """Take a run of verified receipts; `heads[i]` is the head after `receipts[i]`, `ack` speaks about the last.

        Names of refusals (`ReceiptMismatch`): gap, fork. A channel first seen in its middle is taken: its acknowledgement binds
        the whole history. `Unavailable` when `CHANNELS_MAX` channels are known.
        """
        known = self._channels.get(state.channel)
        if known is None and len(self._channels) >= CHANNELS_MAX:
            raise Unavailable(f"this aggregator knows {CHANNELS_MAX} channels already; choose another")
        skipped = 0 if known is None else self._count_duplicates(state.channel, known, previous, heads, head_at)
        if skipped == len(receipts):
            assert known is not None
            # A row that changes nothing: the answer waits for it, and so for the first copy, which may still be on its way to the disk.
            return Ingest(epoch=known.epoch, accepted=0, duplicates=skipped, head=known.head, batch=[self._put_next()])
        epoch = self.epoch_at(utc_ms)
        last = heads[-1]
        active = _Active(last, state.provider, ack.signature)
        provider_key = receipts[-1].body.provider_key
        if known is None:
            insort(self._of_provider.setdefault(provider_key, []), state.channel)
        self._channels[state.channel] = _Standing(last, epoch)
        row = KnownChannel(head=last, epoch=epoch, provider_key=provider_key, acknowledgement=ack)
        self._open.setdefault(epoch, {})[state.channel] = active
        prefix = epoch_key(epoch) + state.channel
        batch: list[tuple[str, bytes, bytes | None]] = [
            (CHANNELS, state.channel, _ENCODE(row)),
            (LEAVES, prefix, _ENCODE(active.entry(epoch, state.channel))),
        ]
        for receipt, at in zip(receipts[skipped:], heads[skipped:], strict=True):
            kept = KeptReceipt(receipt=receipt, head=at.head)
            batch.append((RECEIPTS, prefix + at.seq.to_bytes(8, "big"), _ENCODE(kept)))
        return Ingest(epoch=epoch, accepted=len(receipts) - skipped, duplicates=skipped, head=last, batch=batch)

    @staticmethod
    def _count_duplicates(
        channel: ChannelId, known: _Standing, previous: ChannelHead, heads: list[ChannelHead], head_at: HeadAt
    ) -> int:
        if previous.seq > known.head.seq:
            raise ReceiptMismatch(
                f"gap: we hold receipts up to {known.head.seq}, the batch starts after {previous.seq}"
            )
        skipped = min(len(heads), known.head.seq - previous.seq)
        # One head binds all history before it, so one comparison decides for every skipped receipt.
        at = heads[skipped - 1] if skipped else previous
        held = known.head.head if at.seq == known.head.seq else head_at(known.epoch, channel, at.seq)
        if (held is not None and held != at.head) or (at.seq == known.head.seq and at.cum != known.head.cum):
            raise ReceiptMismatch(f"fork: at receipt {at.seq} the batch has another history than the one we hold")
        return skipped

    def due_epochs(self, utc_ms: int) -> list[int]:
        """Epochs that are over and not closed, oldest first; empty ones are left out."""
        now = utc_ms // self._epoch_ms
        return sorted(epoch for epoch in self._open if epoch < now)

    def is_open(self, epoch: int) -> bool:
        """Whether it has entries, and may get more or be closed."""
        return epoch in self._open

    def entries(self, epoch: int) -> list[Entry]:
        """Entries of an open epoch, in no particular order."""
        return [active.entry(epoch, channel) for channel, active in self._open.get(epoch, {}).items()]

    def freeze(self, epoch: int) -> Iterator[Entry]:
        """From here on `epoch` and all before it never change in this life; `close` makes that durable.

        Its entries are made one by one: a million at once are a gigabyte.
        """
        self._next_open = max(self._next_open, epoch + 1)
        taken = self._open.pop(epoch, {})
        return (active.entry(epoch, channel) for channel, active in taken.items())

    def close(self, epoch: int) -> list[tuple[str, bytes, bytes | None]]:
        """From here on `epoch` and all before it never change."""
        self.freeze(epoch)
        return [self._put_next()]

    def _put_next(self) -> tuple[str, bytes, bytes | None]:
        return (META, _NEXT_OPEN, self._next_open.to_bytes(8, "big"))

    def validate(self) -> None:
        """Open entries agree with their channel, and none lies in a closed epoch."""
        for epoch, entries in self._open.items():
            assert epoch >= self._next_open, f"epoch {epoch} is closed but still has entries"
            for channel, active in entries.items():
                known = self._channels[channel]
                assert active.head.seq <= known.head.seq and active.head.cum <= known.head.cum
                assert active.head == known.head or epoch != known.epoch


def epoch_key(epoch: int) -> bytes:
    """8 bytes, so that keys sort by epoch."""
    return epoch.to_bytes(8, "big")


def load_acknowledgement(store: Store, channel: ChannelId) -> Acknowledgement | None:
    """The newest durable acknowledgement of a channel."""
    row = store.get(CHANNELS, channel)
    return None if row is None else _CHANNEL.decode(row).acknowledgement


def load_head(store: Store, epoch: int, channel: ChannelId, seq: int) -> bytes | None:
    """The head after a kept receipt: serves `HeadAt`."""
    row = store.get(RECEIPTS, epoch_key(epoch) + channel + seq.to_bytes(8, "big"))
    return None if row is None else _KEPT.decode(row).head
