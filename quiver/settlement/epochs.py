"""One root an epoch: who may post it and when, and what is proven against it."""

from __future__ import annotations

from collections.abc import Sequence

from quiver.errors import ReceiptMismatch, SettlementError
from quiver.ids import DIGEST_BYTES, Address
from quiver.settlement.merkle import verify
from quiver.settlement.multiproof import verify_many
from quiver.settlement.terms import Terms
from quiver.values.ledger import Commitment, EpochState, Leaf, MultiProof, Proof

EPOCH_MAX = (1 << 64) - 1
# A contract keeps poster, count and time of a root in one word of storage.
COUNT_MAX = (1 << 40) - 1


class Epochs:
    """The posted roots. Never deleted: a leaf may be claimed at any later time."""

    def __init__(self, terms: Terms, aggregator: Address) -> None:
        self.aggregator = aggregator
        self._terms = terms
        self._epochs: dict[int, EpochState] = {}

    def get(self, number: int) -> EpochState | None:
        """What was posted for an epoch."""
        return self._epochs.get(number)

    def states(self) -> tuple[EpochState, ...]:
        """All of them, by number."""
        return tuple(self._epochs[number] for number in sorted(self._epochs))

    def restore(self, states: Sequence[EpochState]) -> None:
        """Inverse of `states`."""
        self._epochs = {state.commitment.epoch: state for state in states}

    def check_posting(self, commitment: Commitment, sender: Address, now_ms: int) -> None:
        """`SettlementError` unless `sender` may post this root now, as far as time and place decide."""
        if (
            not 0 <= commitment.epoch <= EPOCH_MAX
            or not 1 <= commitment.count <= COUNT_MAX
            or len(commitment.root) != DIGEST_BYTES
        ):
            raise SettlementError(
                "malformed_commitment", "a commitment has an epoch, a 32-byte root and at least one leaf"
            )
        if commitment.epoch in self._epochs:
            raise SettlementError("epoch_exists", f"epoch {commitment.epoch} is committed already")
        end_ms = (commitment.epoch + 1) * self._terms.epoch_ms
        if now_ms < end_ms:
            raise SettlementError("epoch_not_over", f"epoch {commitment.epoch} ends in {end_ms - now_ms} ms")
        if sender != self.aggregator and now_ms < end_ms + self._terms.submit_grace_ms:
            raise SettlementError("not_the_aggregator", "others may submit only after the grace period")

    def post(self, commitment: Commitment, sender: Address, now_ms: int) -> None:
        """Keep a root that `check_posting` let pass."""
        self._epochs[commitment.epoch] = EpochState(commitment=commitment, submitted_ms=now_ms, poster=sender)

    def check_known(self, number: int) -> EpochState:
        """`SettlementError` unless the epoch has a root."""
        committed = self._epochs.get(number)
        if committed is None:
            raise SettlementError("unknown_epoch", f"epoch {number} has no commitment; wait for it or claim directly")
        return committed

    def check_challengeable(self, number: int, now_ms: int) -> EpochState:
        """The same, and `window_closed` once nobody may accuse its poster any more."""
        committed = self.check_known(number)
        if now_ms >= committed.submitted_ms + self._terms.challenge_window_ms:
            raise SettlementError("window_closed", f"the root of epoch {number} can no longer be challenged")
        return committed

    def check_proof(self, leaf: Leaf, proof: Proof) -> None:
        """`SettlementError("bad_proof")` unless the leaf is under its epoch's root."""
        try:
            verify(leaf, proof, self.check_known(leaf.epoch).commitment)
        except ReceiptMismatch as error:
            raise SettlementError("bad_proof", str(error)) from error

    def check_proofs(self, epoch: int, leaves: Sequence[Leaf], proof: MultiProof) -> None:
        """The same for many leaves of one epoch."""
        try:
            verify_many(leaves, proof, self.check_known(epoch).commitment)
        except ReceiptMismatch as error:
            raise SettlementError("bad_proof", str(error)) from error

    def validate(self) -> None:
        """Each root is filed under its epoch."""
        assert all(number == state.commitment.epoch for number, state in self._epochs.items()), "an epoch is misfiled"
