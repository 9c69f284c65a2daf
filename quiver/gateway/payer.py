"""The payer's end of a channel: its durable log, and what is left to promise. No I/O, no clock."""

from __future__ import annotations

from quiver.errors import ReceiptMismatch
from quiver.ids import RequestId
from quiver.receipts.checks import check_next
from quiver.receipts.log import PayerLog
from quiver.values.ledger import ChannelState
from quiver.values.receipt import ChannelHead, SignedReceipt


class PayerChannel:
    """One channel to one provider; a refused receipt leaves it unchanged."""

    __slots__ = ("state", "log", "_reserved", "_held")

    def __init__(self, state: ChannelState, log: PayerLog) -> None:
        self.state = state
        self.log = log
        self._reserved: dict[RequestId, int] = {}
        self._held = 0

    @property
    def available(self) -> int:
        """Credits neither owed nor held for open requests."""
        return self.state.locked - self.log.head.cum - self._held

    def reserve(self, request_id: RequestId, amount_max: int) -> bool:
        """Hold a quoted maximum; False if the channel cannot carry it."""
        if amount_max > self.available or self.state.exit_at_ms is not None or self.state.closed:
            return False
        self._reserved[request_id] = amount_max
        self._held += amount_max
        return True

    def release(self, request_id: RequestId) -> None:
        """The request is over."""
        self._held -= self._reserved.pop(request_id, 0)

    def check_receipt(self, signed: SignedReceipt) -> tuple[ChannelHead, bytes]:
        """Where the channel will stand, and the digest that the signature is over.

        `ReceiptMismatch` unless it is the next one and the deposit covers it.
        """
        if signed.body.cum > self.state.locked:
            raise ReceiptMismatch(f"cum_beyond_deposit: {signed.body.cum} credits, {self.state.locked} are locked")
        return check_next(signed, self.log.head, self.log.terms)

    def on_receipt(self, signed: SignedReceipt, at: ChannelHead | None = None) -> None:
        """A receipt whose signature was verified, and `at` what `check_receipt` said: the channel moves on."""
        self.log.on_receipt(signed, at)
        held = self._reserved.get(signed.body.request_id)
        if held is not None:
            used = min(held, signed.body.amount)
            self._reserved[signed.body.request_id] = held - used
            self._held -= used

    @property
    def unsigned(self) -> bool:
        """Receipts were accepted since the last acknowledgement."""
        return self.log.head.seq > (self.log.last.seq if self.log.last else 0)

    def validate(self) -> None:
        """Own invariants."""
        assert self.log.head.cum <= self.state.locked
        assert self._held == sum(self._reserved.values()) >= 0
