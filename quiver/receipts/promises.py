"""What an aggregator gives its word for: a promise for each batch it took, and the commitment it hands out with a proof.

Both are signed by the key its bond names, and worth money only against the root that this signer's poster put on the ledger.
"""

from __future__ import annotations

from quiver.errors import BadSignature, ReceiptMismatch
from quiver.identity.signing import COMMITMENT_TAG, PROMISE_TAG, commitment_digest, promise_digest
from quiver.ids import Address, ChannelId, compute_domain
from quiver.ports import Ledger, Signer, Verifier
from quiver.values.ledger import Commitment, Promise, SignedCommitment
from quiver.values.receipt import Acknowledgement, ChannelHead


async def sign_promise(signer: Signer, ledger: Ledger, *, epoch: int, channel: ChannelId, head: ChannelHead) -> Promise:
    """The leaf of `channel` in `epoch` will be at `head` or later."""
    unsigned = Promise(epoch=epoch, channel=channel, cum=head.cum, seq=head.seq, head=head.head, signature=b"")
    digest = promise_digest(compute_domain(PROMISE_TAG, ledger.chain_id, ledger.contract), unsigned)
    return Promise(
        epoch=epoch, channel=channel, cum=head.cum, seq=head.seq, head=head.head,
        signature=await signer.sign_session(digest),
    )  # fmt: skip


def check_promise(promise: Promise, ack: Acknowledgement, epoch: int) -> None:
    """`ReceiptMismatch` unless it promises for `epoch` what `ack`, under which receipts were taken, speaks of, or more.

    Names: promise_other, promise_short.
    """
    if (promise.channel, promise.epoch) != (ack.channel, epoch):
        raise ReceiptMismatch(
            f"promise_other: receipts were taken into epoch {epoch}, the promise is for {promise.epoch}"
        )
    same_place = (promise.cum, promise.head) == (ack.cum, ack.head)
    if promise.seq < ack.seq or (promise.seq == ack.seq and not same_place):
        raise ReceiptMismatch(f"promise_short: receipts up to {ack.seq} were taken, the promise does not reach them")


async def verify_promise(verifier: Verifier, ledger: Ledger, promise: Promise, signer: Address) -> None:
    """`BadSignature` unless `signer`, as a bond names it, gave this word."""
    digest = promise_digest(compute_domain(PROMISE_TAG, ledger.chain_id, ledger.contract), promise)
    if not await verifier.verify_session(signer, digest, promise.signature):
        raise BadSignature(
            f"promise_signature: the promise for epoch {promise.epoch} is not signed by the bond's signer"
        )


async def sign_commitment(signer: Signer, ledger: Ledger, commitment: Commitment) -> bytes:
    """This commitment, and no other for its epoch."""
    domain = compute_domain(COMMITMENT_TAG, ledger.chain_id, ledger.contract)
    return await signer.sign_session(commitment_digest(domain, commitment))


async def verify_commitment(verifier: Verifier, ledger: Ledger, signed: SignedCommitment, signer: Address) -> None:
    """`BadSignature` unless `signer`, as a bond names it, signed it."""
    domain = compute_domain(COMMITMENT_TAG, ledger.chain_id, ledger.contract)
    if not await verifier.verify_session(signer, commitment_digest(domain, signed.commitment), signed.signature):
        epoch = signed.commitment.epoch
        raise BadSignature(f"commitment_signature: the commitment of epoch {epoch} is not signed by the bond's signer")
