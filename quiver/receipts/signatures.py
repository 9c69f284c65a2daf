"""Flows that sign and verify receipts and acknowledgements through the ports. Shapes are checked first (`receipts.checks`)."""

from __future__ import annotations

from collections.abc import Sequence

from quiver.errors import BadSignature
from quiver.identity.signing import ack_digest, ack_domain, receipt_digest
from quiver.ids import Address
from quiver.ports import SignatureCheck, Signer, Verifier
from quiver.receipts.checks import ChannelTerms, check_acknowledgement_shape, check_shape
from quiver.values.receipt import Acknowledgement, ChannelHead, ReceiptBody, SignedReceipt


async def sign_receipt(signer: Signer, body: ReceiptBody) -> SignedReceipt:
    """The provider's signature over the receipt digest."""
    return SignedReceipt(body=body, signature=await signer.sign(receipt_digest(body)))


async def verify_receipt(verifier: Verifier, receipt: SignedReceipt, digest: bytes | None = None) -> None:
    """`BadSignature` unless the provider named in the body signed it. `digest`: from `check_next`, for who checked it before."""
    if digest is None:
        check_shape(receipt)
        digest = receipt_digest(receipt.body)
    if not await verifier.verify(receipt.body.provider_key, digest, receipt.signature):
        raise BadSignature(f"receipt_signature: receipt {receipt.body.seq} is not signed by its provider key")


async def sign_acknowledgement(
    signer: Signer, terms: ChannelTerms, at: ChannelHead, *, session: Address | None = None
) -> Acknowledgement:
    """The payer's session signature over one head; `session` is the key the ledger names, None the payer's first."""
    digest = ack_digest(ack_domain(terms.chain_id, terms.contract), terms.channel, at.cum, at.seq, at.head)
    signature = await (signer.sign_session(digest) if session is None else signer.sign_session(digest, session))
    return Acknowledgement(channel=terms.channel, seq=at.seq, cum=at.cum, head=at.head, signature=signature)


async def verify_acknowledgement(
    verifier: Verifier, ack: Acknowledgement, *, chain_id: int, contract: Address, session: Address
) -> None:
    """`BadSignature` unless `session`, as the ledger names it, signed it for this contract."""
    check_acknowledgement_shape(ack)
    digest = ack_digest(ack_domain(chain_id, contract), ack.channel, ack.cum, ack.seq, ack.head)
    if not await verifier.verify_session(session, digest, ack.signature):
        raise BadSignature(
            f"acknowledgement_signature: the acknowledgement at {ack.seq} is not signed by the session key"
        )


async def find_signer(
    verifier: Verifier, ack: Acknowledgement, sessions: Sequence[Address], *, chain_id: int, contract: Address
) -> Address | None:
    """Which of `sessions` signed it for this contract; None if none of them did."""
    for session in sessions:
        try:
            await verify_acknowledgement(verifier, ack, chain_id=chain_id, contract=contract, session=session)
        except BadSignature:
            continue
        return session
    return None


async def verify_submission(
    verifier: Verifier, receipts: Sequence[SignedReceipt], digests: Sequence[bytes], ack: Acknowledgement,
    sessions: Sequence[Address], *, chain_id: int, contract: Address,
) -> None:  # fmt: skip
    """`BadSignature` unless one of `sessions` signed `ack` and its provider every receipt. `check_receipts` comes before.

    The acknowledgement goes first: who has none of a payer's costs us one signature, however many receipts come with it.
    """
    said = ack_digest(ack_domain(chain_id, contract), ack.channel, ack.cum, ack.seq, ack.head)
    signed = [
        SignatureCheck(receipt.body.provider_key, digest, receipt.signature)
        for receipt, digest in zip(receipts, digests, strict=True)
    ]
    for session in sessions:
        invalid = await verifier.find_invalid([SignatureCheck(session, said, ack.signature, True), *signed])
        if invalid is None:
            return
        if invalid > 0:
            seq = receipts[invalid - 1].body.seq
            raise BadSignature(f"receipt_signature: receipt {seq} is not signed by its provider key")
    raise BadSignature("acknowledgement_signature: by no session key of its channel")
