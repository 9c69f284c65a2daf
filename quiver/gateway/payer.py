"""The payer's end of a channel: which receipt is next, what is left, what to sign. No I/O, no clock."""

from __future__ import annotations

from quiver.errors import ReceiptMismatch
from quiver.identity import signing
from quiver.ids import Address, RequestId
from quiver.values.ledger import ChannelState
from quiver.values.receipt import Acknowledgement, ChannelHead, SignedReceipt


class PayerChannel:
    """One channel to one provider; a refused receipt leaves it unchanged."""

    __slots__ = ("state", "provider_key", "head", "acknowledgement", "_reserved", "_chain_id", "_contract", "_domain")

    def __init__(
        self,
        state: ChannelState,
        provider_key: bytes,
        *,
        chain_id: int,
        contract: Address,
        head: ChannelHead | None = None,
        acknowledgement: Acknowledgement | None = None,
    ) -> None:
        self.state = state
        self.provider_key = provider_key
        self.head = head or ChannelHead()
        self.acknowledgement = acknowledgement
        self._reserved: dict[RequestId, int] = {}
        self._chain_id = chain_id
        self._contract = contract
        self._domain = signing.ack_domain(chain_id, contract)

    @property
    def available(self) -> int:
        """Credits neither owed nor held for open requests."""
        return self.state.locked - self.head.cum - sum(self._reserved.values())

    def reserve(self, request_id: RequestId, amount_max: int) -> bool:
        """Hold a quoted maximum; False if the channel cannot carry it."""
        if amount_max > self.available or self.state.exit_at_ms is not None or self.state.closed:
            return False
        self._reserved[request_id] = amount_max
        return True

    def release(self, request_id: RequestId) -> None:
        """The request is over."""
        self._reserved.pop(request_id, None)

    def check_receipt(self, signed: SignedReceipt) -> bytes:
        """Digest that the provider must have signed; `ReceiptMismatch` unless it is this channel's next receipt."""
        body = signed.body
        if (body.chain_id, body.contract, body.channel) != (self._chain_id, self._contract, self.state.channel):
            raise ReceiptMismatch("receipt of another chain, contract or channel")
        if body.provider_key != self.provider_key or body.payer != self.state.payer:
            raise ReceiptMismatch("receipt between other parties")
        if body.seq != self.head.seq + 1:
            raise ReceiptMismatch(f"receipt {body.seq} where {self.head.seq + 1} is next")
        if body.cum != self.head.cum + body.amount:
            raise ReceiptMismatch(f"receipt {body.seq}: cum {body.cum} is not {self.head.cum} + {body.amount}")
        if body.cum > self.state.locked:
            raise ReceiptMismatch(f"receipt {body.seq}: cum {body.cum} exceeds the {self.state.locked} locked")
        return signing.receipt_digest(body)

    def on_receipt(self, signed: SignedReceipt, digest: bytes) -> None:
        """A checked and verified receipt: the channel moves on."""
        body = signed.body
        self.head = ChannelHead(seq=body.seq, cum=body.cum, head=signing.next_head(self.head.head, digest))
        if body.request_id in self._reserved:
            self._reserved[body.request_id] = max(0, self._reserved[body.request_id] - body.amount)

    @property
    def unsigned(self) -> bool:
        """Receipts were accepted since the last acknowledgement."""
        return self.head.seq > (self.acknowledgement.seq if self.acknowledgement else 0)

    def digest_to_sign(self, head: ChannelHead) -> bytes:
        """What the session key signs to acknowledge everything up to `head`."""
        return signing.ack_digest(self._domain, self.state.channel, head.cum, head.seq, head.head)

    def on_signed(self, head: ChannelHead, signature: bytes) -> Acknowledgement:
        """Our acknowledgement up to `head`."""
        self.acknowledgement = Acknowledgement(
            channel=self.state.channel, seq=head.seq, cum=head.cum, head=head.head, signature=signature
        )
        return self.acknowledgement

    def validate(self) -> None:
        """Own invariants."""
        assert self.head.cum <= self.state.locked
        assert all(amount >= 0 for amount in self._reserved.values())
        assert self.acknowledgement is None or self.acknowledgement.seq <= self.head.seq
