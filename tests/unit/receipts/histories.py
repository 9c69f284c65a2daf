"""Receipts and acknowledgements of one channel, as its two ends would make them."""

from __future__ import annotations

import hashlib

from quiver.identity.signing import next_head, receipt_digest
from quiver.ids import Address, ChannelId, ModelId, RequestId
from quiver.receipts.checks import ChannelTerms
from quiver.receipts.signatures import sign_acknowledgement, sign_receipt
from quiver.values.receipt import ChannelHead, ReceiptBody
from sim.signer import SimSigner

CHAIN_ID, HUB, CHANNEL = 31337, Address(b"\x0c" * 20), ChannelId(b"\xcc" * 32)


def drive(coroutine):
    """Result of a coroutine that never waits: modelled and real signers do not."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine waits for something")


class History:
    """Receipts of `amounts`, one after the other; `heads[0]` is the beginning."""

    def __init__(self, amounts=(10, 0, 25), *, channel=CHANNEL, mode="modelled", salt=b""):
        self.provider = SimSigner(1, "provider", mode=mode)
        self.payer = SimSigner(1, "payer", mode=mode)
        self.terms = ChannelTerms(
            chain_id=CHAIN_ID,
            contract=HUB,
            channel=channel,
            provider_key=self.provider.public_key,
            payer=self.payer.account,
        )
        self.receipts, self.heads = [], [ChannelHead()]
        for amount in amounts:
            self.add(amount, salt)

    def add(self, amount, salt=b""):
        last = self.heads[-1]
        body = ReceiptBody(
            chain_id=CHAIN_ID, contract=HUB, channel=self.terms.channel, request_id=RequestId(bytes(16)), seq=last.seq + 1,
            provider_key=self.terms.provider_key, payer=self.terms.payer, request_hash=bytes(32),
            response_hash=hashlib.sha256(salt + bytes([amount % 256])).digest(), model=ModelId(bytes(32)),
            prompt_tokens=3, completion_tokens=4, amount=amount, cum=last.cum + amount, issued_ms=1_700_000_000_000,
        )  # fmt: skip
        self.receipts.append(drive(sign_receipt(self.provider, body)))
        self.heads.append(ChannelHead(seq=body.seq, cum=body.cum, head=next_head(last.head, receipt_digest(body))))
        return self.receipts[-1]

    def acknowledge(self, seq=-1):
        return drive(sign_acknowledgement(self.payer, self.terms, self.heads[seq]))
