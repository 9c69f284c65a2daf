"""The provider's end of a payment channel: the one writer of seq, cum and head, and what it still risks on the payer.

Rules of this file: no I/O, no clock. A refused input leaves state unchanged.
"""

from __future__ import annotations

from quiver.errors import ReceiptMismatch, WireCode
from quiver.identity import signing
from quiver.ids import RequestId
from quiver.params import Params
from quiver.values.ledger import ChannelState
from quiver.values.receipt import Acknowledgement, ChannelHead, ReceiptBody, SignedReceipt


class ProviderChannel:
    """All credits are cumulative over the channel's life."""

    __slots__ = ("state", "head", "acknowledgement", "unacknowledged", "limit", "_heads", "_reserved", "_params", "_domain")

    def __init__(
        self,
        state: ChannelState,
        params: Params,
        domain: bytes,
        *,
        head: ChannelHead | None = None,
        acknowledgement: Acknowledgement | None = None,
        unacknowledged: tuple[SignedReceipt, ...] = (),
    ) -> None:
        self.state = state
        self.head = head or ChannelHead()
        self.acknowledgement = acknowledgement
        self.unacknowledged: dict[int, SignedReceipt] = {signed.body.seq: signed for signed in unacknowledged}
        self.limit = params.first_credit
        self._heads: dict[int, ChannelHead] = {}
        self._reserved: dict[RequestId, int] = {}
        self._params = params
        self._domain = domain
        previous = acknowledgement.head if acknowledgement else bytes(32)
        for signed in unacknowledged:
            previous = signing.next_head(previous, signing.receipt_digest(signed.body))
            self._heads[signed.body.seq] = ChannelHead(seq=signed.body.seq, cum=signed.body.cum, head=previous)

    @property
    def acknowledged_cum(self) -> int:
        """Credits the payer has signed for."""
        return self.acknowledgement.cum if self.acknowledgement else 0

    @property
    def acknowledged_seq(self) -> int:
        """Last receipt the payer has signed for."""
        return self.acknowledgement.seq if self.acknowledgement else 0

    @property
    def exposure(self) -> int:
        """Credits at risk: delivered or quoted, but not signed for."""
        return self.head.cum - self.acknowledged_cum + sum(self._reserved.values())

    @property
    def proven(self) -> bool:
        """The payer has acknowledged at least once."""
        return self.acknowledgement is not None

    def refusal(self, amount_max: int) -> str | None:
        """Why a request of at most `amount_max` credits may not start now; None when it may."""
        if self.state.closed or self.state.exit_at_ms is not None:
            return "the channel is closing"
        reserved = sum(self._reserved.values())
        if self.head.cum + reserved + amount_max > self.state.locked:
            return f"{self.state.locked - self.head.cum - reserved} credits are left in the channel, {amount_max} are needed"
        if self.exposure + amount_max > self.limit:
            return f"unacknowledged credits would exceed {self.limit}"
        return None

    def reserve(self, request_id: RequestId, amount_max: int) -> None:
        """Hold the quoted maximum until `release`."""
        self._reserved[request_id] = amount_max

    def release(self, request_id: RequestId) -> None:
        """The request ended, whatever way."""
        self._reserved.pop(request_id, None)

    def issue(self, body: ReceiptBody) -> None:
        """Advance to `body`, which must be the next receipt: built by `next_receipt` and not yet passed by another."""
        if body.seq != self.head.seq + 1 or body.cum != self.head.cum + body.amount:
            raise ReceiptMismatch(f"receipt {body.seq} does not follow {self.head.seq}")
        head = signing.next_head(self.head.head, signing.receipt_digest(body))
        self.head = ChannelHead(seq=body.seq, cum=body.cum, head=head)
        self._heads[body.seq] = self.head
        if body.request_id in self._reserved:
            self._reserved[body.request_id] = max(0, self._reserved[body.request_id] - body.amount)

    def keep(self, signed: SignedReceipt) -> None:
        """Remember a signed receipt until it is acknowledged, to re-send it verbatim."""
        self.unacknowledged[signed.body.seq] = signed

    def check_acknowledgement(self, acknowledgement: Acknowledgement) -> bytes:
        """The digest its signature must cover; `ReceiptMismatch` if it is not over a receipt of ours. Old ones are fine."""
        if acknowledgement.channel != self.state.channel:
            raise ReceiptMismatch("acknowledgement of another channel")
        if acknowledgement.seq > self.acknowledged_seq:
            ours = self._heads.get(acknowledgement.seq)
            if ours is None or (ours.cum, ours.head) != (acknowledgement.cum, acknowledgement.head):
                raise ReceiptMismatch(f"acknowledgement {acknowledgement.seq} does not match our receipts")
        return signing.ack_digest(
            self._domain, acknowledgement.channel, acknowledgement.cum, acknowledgement.seq, acknowledgement.head
        )

    def on_acknowledged(self, acknowledgement: Acknowledgement) -> tuple[SignedReceipt, ...]:
        """A verified acknowledgement: the receipts it newly covers, oldest first. The last one wins, old ones change nothing."""
        if acknowledgement.seq <= self.acknowledged_seq:
            return ()
        covered = tuple(
            self.unacknowledged.pop(seq)
            for seq in range(self.acknowledged_seq + 1, acknowledgement.seq + 1)
            if seq in self.unacknowledged
        )
        for seq in range(self.acknowledged_seq + 1, acknowledgement.seq + 1):
            self._heads.pop(seq, None)
        self.acknowledgement = acknowledgement
        for _ in covered:
            if self.limit >= self._params.credit_limit_max:
                break
            self.limit = min(2 * self.limit, self._params.credit_limit_max)
        return covered

    def validate(self) -> None:
        """Own invariants."""
        assert self.acknowledged_seq <= self.head.seq
        assert self.acknowledged_cum <= self.head.cum
        assert all(amount >= 0 for amount in self._reserved.values())
        assert len(self._heads) == self.head.seq - self.acknowledged_seq
