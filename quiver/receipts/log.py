"""What both ends of a channel must remember across kill -9, as objects that turn events into store batches.

Rules of this file: one writer a channel. A method checks, changes the object, and returns the batch to commit; the caller commits
before it sends anything that rests on it (docs/protocol.md, section 5). If a commit fails, `load` again.

Provider: receipts stay until the aggregator has them, so (submitted, head] are kept and (acknowledged, head] are unacknowledged;
`PROVEN_KEPT` more stay on disk, to show them to whoever doubts a bill. A provider that lost its disk takes a channel over where a
genuine acknowledgement says it stands, and goes on from there: what was issued up to there is issued no second time.
Payer: the head of its last acknowledgement; later receipts come again, verbatim, from the provider.
"""

from __future__ import annotations

from collections import deque

import msgspec

from quiver.errors import Busy, ReceiptMismatch, UsageError
from quiver.ids import Address, ChannelId
from quiver.ports import Batch, Store
from quiver.receipts.checks import (
    RECEIPTS_PER_BATCH_MAX,
    ChannelTerms,
    check_acknowledgement,
    check_acknowledgement_shape,
    check_receipt,
)
from quiver.receipts.totals import PAYER_TOTALS, PROVIDER_TOTALS, ChannelTotals
from quiver.values.frames import SubmitReceipts
from quiver.values.receipt import Acknowledgement, ChannelHead, SignedReceipt

PROVIDER_CHANNELS, PROVIDER_RECEIPTS, PAYER_CHANNELS = "provider_channels", "provider_receipts", "payer_channels"
PROVIDER_PROVEN = "provider_proven"
# A batch for the aggregator ends at an acknowledgement, so no more may stay unacknowledged than fit one batch.
UNACKNOWLEDGED_MAX = RECEIPTS_PER_BATCH_MAX
# Receipts no aggregator has taken yet, over all batches; at 1000 receipts a batch, an hour of a busy channel.
UNSUBMITTED_MAX = 64 * RECEIPTS_PER_BATCH_MAX
# Receipts of a channel that stay on disk after an aggregator has taken them, about 600 bytes each.
PROVEN_KEPT = 1024
# No channel gets this far, so no acknowledgement that was taken over leaves too few numbers for the rest of its life.
TAKEN_OVER_MAX = 1 << 62


class ProviderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Row of `provider_channels`."""

    terms: ChannelTerms
    submitted: ChannelHead = ChannelHead()
    boundaries: tuple[Acknowledgement, ...] = ()
    "Acknowledgements at which batches may end, oldest first; the last is the newest."
    last: Acknowledgement | None = None
    taken_over: bool = False
    "Nothing was issued here since `last` was taken over."


class IssuedReceipt(SignedReceipt, frozen=True, kw_only=True):
    """Row of `provider_receipts` and `provider_proven`."""

    head: bytes = b""
    "The channel's head after it; empty in a row written before heads were kept."


class PayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Row of `payer_channels`."""

    terms: ChannelTerms
    last: Acknowledgement | None = None


_ENCODE = msgspec.msgpack.Encoder().encode
_RECEIPT = msgspec.msgpack.Decoder(SignedReceipt)
_ISSUED = msgspec.msgpack.Decoder(IssuedReceipt)
_PROVIDER = msgspec.msgpack.Decoder(ProviderRecord)
_PAYER = msgspec.msgpack.Decoder(PayerRecord)


def head_of(ack: Acknowledgement | None) -> ChannelHead:
    """The head an acknowledgement speaks about; the channel's beginning for None."""
    return ChannelHead() if ack is None else ChannelHead(seq=ack.seq, cum=ack.cum, head=ack.head)


class ProviderLog:
    """One channel as its provider remembers it."""

    def __init__(self, terms: ChannelTerms) -> None:
        self._record = ProviderRecord(terms=terms)
        self._kept: deque[tuple[SignedReceipt, ChannelHead]] = deque()
        self.totals = ChannelTotals(PROVIDER_TOTALS, terms.channel)
        "Of every receipt issued here."

    @classmethod
    def load(cls, store: Store, terms: ChannelTerms) -> ProviderLog:
        """As last committed; a channel never seen starts at its beginning. `UsageError` when the store holds other terms."""
        self = cls(terms)
        if (row := store.get(PROVIDER_CHANNELS, terms.channel)) is None:
            return self
        self._record = _PROVIDER.decode(row)
        if self._record.terms != terms:
            raise UsageError(
                f"channel {terms.channel.hex()}: the store holds other terms; is this the right chain and key?"
            )
        self.totals = ChannelTotals.load(store, PROVIDER_TOTALS, terms.channel)
        at = self._record.submitted
        for _, value in store.scan(PROVIDER_RECEIPTS, terms.channel):
            receipt = _RECEIPT.decode(value)
            at = check_receipt(receipt, at, terms)
            self._kept.append((receipt, at))
        return self

    @property
    def terms(self) -> ChannelTerms:
        """What the channel's receipts have in common."""
        return self._record.terms

    @property
    def head(self) -> ChannelHead:
        """After the newest receipt."""
        return self._kept[-1][1] if self._kept else self._record.submitted

    @property
    def last(self) -> Acknowledgement | None:
        """The newest acknowledgement: what `claim_direct` needs."""
        return self._record.last

    @property
    def acknowledged(self) -> ChannelHead:
        """What the payer has signed for."""
        return head_of(self._record.last)

    @property
    def unacknowledged_credits(self) -> int:
        """Delivered, receipted, not signed for."""
        return self.head.cum - (self.last.cum if self.last else 0)

    @property
    def unacknowledged(self) -> tuple[SignedReceipt, ...]:
        """To re-send verbatim at `Authorised`."""
        since = self.acknowledged.seq
        return tuple(receipt for receipt, at in self._kept if at.seq > since)

    def on_issued(self, receipt: SignedReceipt) -> Batch:
        """Our next receipt; commit, then send. `Busy` when the log is full."""
        if self.head.seq - self.acknowledged.seq >= UNACKNOWLEDGED_MAX or len(self._kept) >= UNSUBMITTED_MAX:
            raise Busy(
                f"channel {self.terms.channel.hex()}: the receipt log is full; wait for the payer or the aggregator"
            )
        new = not self._kept and (self._record.last is None or self._record.taken_over)
        at = check_receipt(receipt, self.head, self.terms)
        self._kept.append((receipt, at))
        put = (PROVIDER_RECEIPTS, self._key(at.seq), self._row(receipt, at))
        batch: list[tuple[str, bytes, bytes | None]] = [put, *self.totals.on_receipt(receipt.body)]
        if new:
            self._record = msgspec.structs.replace(self._record, taken_over=False)
            batch.append(self._put())
        return batch

    def on_acknowledged(self, ack: Acknowledgement, *, receipts_batch_max: int) -> Batch:
        """A verified acknowledgement. One that is not newer than ours changes nothing; one over a head we never had is refused,
        unless we have nothing to hold against it: then it is where the channel stands."""
        last = self._record.last
        if last is not None and ack.seq == last.seq and ack != last:
            return self._renew(last, ack)
        if ack.seq <= self.acknowledged.seq:
            return []
        if self.is_taken_over_by(ack):
            return self._take_over(ack)
        check_acknowledgement(ack, self._head_at(ack.seq), self.terms.channel)
        kept = self._record.boundaries
        start = kept[-2].seq if len(kept) > 1 else self._record.submitted.seq
        # The newest boundary moves forward while its batch stays small.
        boundaries = (*(kept[:-1] if ack.seq - start <= receipts_batch_max else kept), ack)
        self._record = msgspec.structs.replace(self._record, boundaries=boundaries, last=ack)
        return [self._put()]

    def _renew(self, last: Acknowledgement, ack: Acknowledgement) -> Batch:
        """The same head under the payer's new session key: the old one's signature pays no more."""
        check_acknowledgement(ack, head_of(last), self.terms.channel)
        boundaries = tuple(ack if kept == last else kept for kept in self._record.boundaries)
        self._record = msgspec.structs.replace(self._record, last=ack, boundaries=boundaries)
        return [self._put()]

    def is_taken_over_by(self, ack: Acknowledgement) -> bool:
        """Whether `ack` is news to a log that issued nothing since its beginning or since it was last taken over."""
        is_blank = not self._kept and (self._record.last is None or self._record.taken_over)
        return is_blank and ack.seq > self.head.seq

    def _take_over(self, ack: Acknowledgement) -> Batch:
        check_acknowledgement_shape(ack)
        if ack.channel != self.terms.channel:
            raise ReceiptMismatch("ack_wrong_channel: an acknowledgement of another channel")
        if ack.cum < self.head.cum or max(ack.seq, ack.cum) > TAKEN_OVER_MAX:
            raise ReceiptMismatch(f"ack_wrong_cum: {ack.cum} credits at receipt {ack.seq} can't be where we stand")
        self._record = msgspec.structs.replace(
            self._record, submitted=head_of(ack), boundaries=(), last=ack, taken_over=True
        )
        return [self._put()]

    def next_submission(self, batch_id: int, session: Address) -> SubmitReceipts | None:
        """The next batch for the aggregator, or None while nothing new is acknowledged."""
        if not self._record.boundaries:
            return None
        ack = self._record.boundaries[0]
        receipts = tuple(receipt for receipt, at in self._kept if at.seq <= ack.seq)
        return SubmitReceipts(
            batch_id=batch_id, previous=self._record.submitted, receipts=receipts, acknowledgement=ack, session=session
        )

    def on_ingested(self, submitted: SubmitReceipts) -> Batch:
        """The aggregator holds this batch durably: forget its receipts."""
        until = head_of(submitted.acknowledgement)
        if until.seq <= self._record.submitted.seq:
            return []
        if until != self._head_at(until.seq):
            raise ReceiptMismatch(
                f"ack_wrong_head: the ingested batch ends at {until.seq} in another history than ours"
            )
        return self._forget(until)

    def on_unsubmittable(self, refused: SubmitReceipts) -> Batch:
        """The aggregator will never take this batch, because receipts before it are lost: what it is worth is claimed directly."""
        until = head_of(refused.acknowledgement)
        return [] if until.seq <= self._record.submitted.seq else self._forget(until)

    def _forget(self, until: ChannelHead) -> Batch:
        boundaries = tuple(ack for ack in self._record.boundaries if ack.seq > until.seq)
        outdated = range(max(1, self._record.submitted.seq - PROVEN_KEPT + 1), until.seq - PROVEN_KEPT + 1)
        self._record = msgspec.structs.replace(self._record, submitted=until, boundaries=boundaries)
        batch: list[tuple[str, bytes, bytes | None]] = [self._put()]
        while self._kept and self._kept[0][1].seq <= until.seq:
            receipt, at = self._kept.popleft()
            key = self._key(at.seq)
            batch += [(PROVIDER_RECEIPTS, key, None), (PROVIDER_PROVEN, key, self._row(receipt, at))]
        return [*batch, *((PROVIDER_PROVEN, self._key(seq), None) for seq in outdated)]

    def validate(self) -> None:
        """submitted <= boundaries <= last <= head, and the kept receipts run without a gap."""
        record = self._record
        assert record.submitted.seq <= self.head.seq
        assert self.acknowledged.seq <= self.head.seq and self.unacknowledged_credits >= 0
        order = [record.submitted.seq, *(ack.seq for ack in record.boundaries)]
        assert order == sorted(order) and (not record.boundaries or record.boundaries[-1] == record.last)
        assert [at.seq for _, at in self._kept] == list(range(record.submitted.seq + 1, self.head.seq + 1))

    def _head_at(self, seq: int) -> ChannelHead:
        if seq == self._record.submitted.seq:
            return self._record.submitted
        index = seq - self._record.submitted.seq - 1
        if not 0 <= index < len(self._kept):
            raise ReceiptMismatch(
                f"ack_wrong_seq: an acknowledgement at {seq}, but our newest receipt is {self.head.seq}"
            )
        return self._kept[index][1]

    @staticmethod
    def _row(receipt: SignedReceipt, at: ChannelHead) -> bytes:
        return _ENCODE(IssuedReceipt(body=receipt.body, signature=receipt.signature, head=at.head))

    def _key(self, seq: int) -> bytes:
        return self.terms.channel + seq.to_bytes(8, "big")

    def _put(self) -> tuple[str, bytes, bytes]:
        return PROVIDER_CHANNELS, self.terms.channel, _ENCODE(self._record)


class PayerLog:
    """One channel as its payer remembers it."""

    def __init__(self, terms: ChannelTerms) -> None:
        self._record = PayerRecord(terms=terms)
        self._head = ChannelHead()
        self._unsigned: deque[tuple[ChannelHead, SignedReceipt]] = deque()
        self.totals = ChannelTotals(PAYER_TOTALS, terms.channel)
        "Of every receipt we signed for."

    @classmethod
    def load(cls, store: Store, terms: ChannelTerms) -> PayerLog:
        """As of the last committed acknowledgement. `UsageError` when the store holds other terms."""
        self = cls(terms)
        if (row := store.get(PAYER_CHANNELS, terms.channel)) is not None:
            self._record = _PAYER.decode(row)
            if self._record.terms != terms:
                raise UsageError(
                    f"channel {terms.channel.hex()}: the store holds other terms; is this the right chain and key?"
                )
            self._head = head_of(self._record.last)
        self.totals = ChannelTotals.load(store, PAYER_TOTALS, terms.channel)
        return self

    @property
    def terms(self) -> ChannelTerms:
        """What the channel's receipts have in common."""
        return self._record.terms

    @property
    def head(self) -> ChannelHead:
        """After the newest receipt we accepted."""
        return self._head

    @property
    def last(self) -> Acknowledgement | None:
        """The newest acknowledgement we signed."""
        return self._record.last

    def on_receipt(self, receipt: SignedReceipt, at: ChannelHead | None = None) -> ChannelHead:
        """The next receipt, verified, and its head if that was computed; the head to acknowledge. Durable with `on_signed`."""
        if len(self._unsigned) >= UNACKNOWLEDGED_MAX:
            raise ReceiptMismatch(f"too_many_receipts: {UNACKNOWLEDGED_MAX} wait for our signature already")
        assert at is None or at.seq == self._head.seq + 1
        self._head = at or check_receipt(receipt, self._head, self.terms)
        self._unsigned.append((self._head, receipt))
        return self._head

    def on_signed(self, ack: Acknowledgement) -> Batch:
        """We acknowledge a head of ours; commit, then send. Empty when a newer one is signed already.

        Signing takes time: receipts that came meanwhile wait for the next acknowledgement.
        """
        last = self._record.last
        if last is not None and ack.seq <= last.seq:
            if ack.seq < last.seq or ack == last:
                return []
            # The same head under a new session key.
            check_acknowledgement(ack, head_of(last), self.terms.channel)
            self._record = msgspec.structs.replace(self._record, last=ack)
            return [(PAYER_CHANNELS, self.terms.channel, _ENCODE(self._record))]
        at = next((head for head, _ in self._unsigned if head.seq == ack.seq), self._head)
        check_acknowledgement(ack, at, self.terms.channel)
        rows: dict[tuple[str, bytes], bytes | None] = {}
        while self._unsigned and self._unsigned[0][0].seq <= ack.seq:
            _, receipt = self._unsigned.popleft()
            rows |= {(table, key): value for table, key, value in self.totals.on_receipt(receipt.body)}
        self._record = msgspec.structs.replace(self._record, last=ack)
        totals = [(table, key, value) for (table, key), value in rows.items()]
        return [(PAYER_CHANNELS, self.terms.channel, _ENCODE(self._record)), *totals]


def provider_channels(store: Store) -> list[ChannelTerms]:
    """Terms of every channel the provider has a log of."""
    return [_PROVIDER.decode(row).terms for _, row in store.scan(PROVIDER_CHANNELS)]


def issued_receipts(store: Store, channel: ChannelId) -> list[IssuedReceipt]:
    """The receipts of a channel that are still on the provider's disk, oldest first."""
    rows = [row for table in (PROVIDER_PROVEN, PROVIDER_RECEIPTS) for _, row in store.scan(table, channel)]
    return [_ISSUED.decode(row) for row in rows]


def payer_channels(store: Store) -> list[tuple[ChannelId, ChannelTerms]]:
    """Every channel the payer has acknowledged something on."""
    return [(ChannelId(key), _PAYER.decode(row).terms) for key, row in store.scan(PAYER_CHANNELS)]
