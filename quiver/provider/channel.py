"""The provider's end of a payment channel: its durable log, and what it still risks on the payer.

Rules of this file: no I/O, no clock. A refused input leaves state unchanged.
"""

from __future__ import annotations

import asyncio

from quiver.errors import ReceiptMismatch
from quiver.ids import RequestId
from quiver.params import Params
from quiver.ports import Batch
from quiver.receipts.log import ProviderLog
from quiver.values.ledger import ChannelState
from quiver.values.receipt import Acknowledgement, SignedReceipt


class ProviderChannel:
    """All credits are cumulative over the channel's life."""

    __slots__ = ("state", "log", "limit", "issuing", "looked_s", "_reserved", "_held", "_params")

    def __init__(self, state: ChannelState, log: ProviderLog, params: Params) -> None:
        self.state = state
        self.log = log
        self.limit = params.first_credit
        "Unacknowledged and quoted credits this payer may run up; doubles with each acknowledged request."
        self.issuing = asyncio.Lock()
        "Held from signing a receipt until it is sent."
        self.looked_s = float("-inf")
        "When the ledger was last asked for a top-up, because the channel held too little."
        self._reserved: dict[RequestId, int] = {}
        self._held = 0
        self._params = params

    @property
    def exposure(self) -> int:
        """Credits at risk: delivered or quoted, but not signed for."""
        return self.log.unacknowledged_credits + self._held

    @property
    def proven(self) -> bool:
        """The payer has acknowledged at least once."""
        return self.log.last is not None

    @property
    def left(self) -> int:
        """Credits that are locked, and neither billed nor quoted, as far as we last saw."""
        return self.state.locked - self.log.head.cum - self._held

    def refusal(self, amount_max: int) -> str | None:
        """Why a request of at most `amount_max` credits may not start now; None when it may."""
        if self.state.closed or self.state.exit_at_ms is not None:
            return "the channel is closing"
        if self.log.head.cum < self.state.paid:
            # Our disk was lost. Going on from an earlier receipt would issue the ones after it a second time.
            return "more was paid than this log knows of: the payer must show its last acknowledgement"
        if amount_max > self.left:
            return f"{self.left} credits are left in the channel, {amount_max} are needed"
        if self.exposure + amount_max > self.limit:
            return f"unacknowledged credits would exceed {self.limit}"
        return None

    def reserve(self, request_id: RequestId, amount_max: int) -> None:
        """Hold the quoted maximum until `release`."""
        self._reserved[request_id] = amount_max
        self._held += amount_max

    def release(self, request_id: RequestId) -> None:
        """The request ended, whatever way."""
        self._held -= self._reserved.pop(request_id, 0)

    def on_issued(self, signed: SignedReceipt) -> Batch:
        """Our next receipt, which turns a part of the reservation into a debt; commit the batch, then send."""
        batch = self.log.on_issued(signed)
        held = self._reserved.get(signed.body.request_id)
        if held is not None:
            used = min(held, signed.body.amount)
            self._reserved[signed.body.request_id] = held - used
            self._held -= used
        return batch

    def on_acknowledged(self, acknowledgement: Acknowledgement) -> Batch:
        """A verified acknowledgement; older ones change nothing."""
        if self.log.is_taken_over_by(acknowledgement):
            return self._take_over(acknowledgement)
        before = self.log.acknowledged.seq
        batch = self.log.on_acknowledged(acknowledgement, receipts_batch_max=self._params.receipts_batch_max)
        for _ in range(self.log.acknowledged.seq - before):
            if self.limit >= self._params.credit_limit_max:
                break
            self.limit = min(2 * self.limit, self._params.credit_limit_max)
        return batch

    def _take_over(self, acknowledgement: Acknowledgement) -> Batch:
        """No credit for it: of a payer's own word alone we know what it owes, not how often it paid."""
        if not max(1, self.state.paid) <= acknowledgement.cum <= self.state.locked:
            raise ReceiptMismatch(
                f"ack_unbacked: an acknowledgement over {acknowledgement.cum} credits, where {self.state.paid} were paid "
                f"of {self.state.locked} locked"
            )
        return self.log.on_acknowledged(acknowledgement, receipts_batch_max=self._params.receipts_batch_max)

    def validate(self) -> None:
        """Own invariants."""
        self.log.validate()
        assert self._held == sum(self._reserved.values()) >= 0
        # A channel that was closed before all of it was claimed has nothing locked for the rest.
        assert self.state.closed or self.log.head.cum + self._held <= self.state.locked
