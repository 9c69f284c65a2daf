"""Whose word something is: the three kinds of signed bytes that the contract reads, bound to it and its chain."""

from __future__ import annotations

from collections.abc import Callable

from quiver.errors import SettlementError
from quiver.identity.signing import (
    COMMITMENT_TAG,
    PROMISE_TAG,
    ack_digest,
    ack_domain,
    commitment_digest,
    promise_digest,
)
from quiver.ids import DIGEST_BYTES, Address, compute_domain
from quiver.values.ledger import Promise, SignedCommitment
from quiver.values.receipt import Acknowledgement

VerifySession = Callable[[Address, bytes, bytes], bool]
"""(address, digest, signature) -> valid: `quiver.identity.keys.verify_session` or a modelled one."""

UINT64_MAX = (1 << 64) - 1


class SignedWords:
    """Checks of one contract on one chain; a signature for another verifies nowhere here."""

    def __init__(self, chain_id: int, contract: Address, verify_session: VerifySession) -> None:
        self.domain = ack_domain(chain_id, contract)
        self._promise_domain = compute_domain(PROMISE_TAG, chain_id, contract)
        self._commitment_domain = compute_domain(COMMITMENT_TAG, chain_id, contract)
        self._verify_session = verify_session

    def check_acknowledged(self, sessions: tuple[Address, ...], ack: Acknowledgement) -> None:
        """`SettlementError("bad_signature")` unless one of `sessions` signed it. Call `check_acknowledgement` first."""
        digest = ack_digest(self.domain, ack.channel, ack.cum, ack.seq, ack.head)
        if not any(self._verify_session(session, digest, ack.signature) for session in sessions):
            raise SettlementError("bad_signature", "the acknowledgement is not signed by the channel's session key")

    def check_promise(self, signer: Address, promise: Promise) -> None:
        """The same for an aggregator's promise."""
        check_numbers(promise.epoch, promise.seq, promise.cum, head=promise.head)
        if not self._verify_session(signer, promise_digest(self._promise_domain, promise), promise.signature):
            raise SettlementError("bad_signature", "the promise is not signed by the signer of whoever posted the root")

    def check_commitment(self, signer: Address, signed: SignedCommitment) -> None:
        """The same for a commitment that was handed out."""
        commitment = signed.commitment
        check_numbers(commitment.epoch, commitment.count, 0, head=commitment.root)
        if not self._verify_session(signer, commitment_digest(self._commitment_domain, commitment), signed.signature):
            raise SettlementError(
                "bad_signature", "the commitment is not signed by the signer of whoever posted the root"
            )


def check_numbers(*numbers: int, head: bytes) -> None:
    """`SettlementError` for a value without its bytes: packing would cut or pad, and two values would share a digest."""
    if len(head) != DIGEST_BYTES or not all(0 <= number <= UINT64_MAX for number in numbers):
        raise SettlementError("malformed_acknowledgement", "numbers are 8-byte unsigned, heads and roots have 32 bytes")
