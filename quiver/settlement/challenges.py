"""Accusing whoever posted a root, answering, and what a silence costs.

No credit of a channel depends on what is decided here: a claim needs its payer's signature. At stake are the bond of a poster,
who promised to commit what it was given, and the word of the ledger as a record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from quiver.errors import SettlementError
from quiver.ids import DIGEST_BYTES, Address, ChannelId
from quiver.settlement.accounts import Accounts
from quiver.settlement.bonds import Bonds
from quiver.settlement.channel import sessions_of
from quiver.settlement.epochs import Epochs
from quiver.settlement.merkle import hash_leaf
from quiver.settlement.signed import SignedWords, check_numbers
from quiver.settlement.terms import Terms
from quiver.values.ledger import (
    AnswerLeaf,
    AnswerOmission,
    ChallengeLeaf,
    ChallengeOmission,
    ChallengeState,
    ChannelState,
    Fault,
    Finalize,
    ProveBadHead,
    Verdict,
)
from quiver.values.receipt import Acknowledgement

Key = tuple[Fault, int, bytes]
# The one thing a poster can be accused of about an epoch's root itself.
WHOLE_EPOCH = bytes(DIGEST_BYTES)


def subject_of_omission(channel: ChannelId, promised_seq: int) -> bytes:
    """SHA-256(channel32 | seq8)."""
    return hashlib.sha256(channel + promised_seq.to_bytes(8, "big")).digest()


class Challenges:
    """All accusations ever made, by (fault, epoch, subject)."""

    def __init__(
        self,
        terms: Terms,
        *,
        accounts: Accounts,
        epochs: Epochs,
        bonds: Bonds,
        words: SignedWords,
        find_channel: Callable[[ChannelId], ChannelState],
    ) -> None:
        self._terms = terms
        self._accounts = accounts
        self._epochs = epochs
        self._bonds = bonds
        self._words = words
        self._find_channel = find_channel
        self._challenges: dict[Key, ChallengeState] = {}

    def get(self, fault: Fault, epoch: int, subject: bytes) -> ChallengeState | None:
        """Where an accusation stands, or None."""
        return self._challenges.get((fault, epoch, subject))

    def states(self) -> tuple[ChallengeState, ...]:
        """All of them, in a fixed order."""
        return tuple(self._challenges[key] for key in sorted(self._challenges))

    def restore(self, states: Sequence[ChallengeState]) -> None:
        """Inverse of `states`."""
        self._challenges = {(state.fault, state.epoch, state.subject): state for state in states}

    @property
    def held(self) -> int:
        """Credits staked on open challenges."""
        return self._terms.stake * sum(state.verdict is Verdict.OPEN for state in self._challenges.values())

    def challenge_omission(self, transaction: ChallengeOmission, now_ms: int) -> None:
        """A promise of the root's own poster, not yet shown to be kept."""
        promise = transaction.promise
        poster = self._epochs.check_challengeable(promise.epoch, now_ms).poster
        self._words.check_promise(self._bonds.check_bonded(poster).signer, promise)
        self._open(
            (Fault.OMISSION, promise.epoch, subject_of_omission(promise.channel, promise.seq)),
            transaction.sender, poster, now_ms,
        )  # fmt: skip

    def answer_omission(self, transaction: AnswerOmission, now_ms: int) -> int:
        """Credits the answerer earned: a leaf of the channel, as new as promised, is under the root."""
        leaf = transaction.leaf
        check_numbers(transaction.promised_seq, head=leaf.head)
        key = (Fault.OMISSION, leaf.epoch, subject_of_omission(leaf.channel, transaction.promised_seq))
        self._check_answerable(key, now_ms)
        if leaf.seq < transaction.promised_seq:
            raise SettlementError("leaf_too_old", f"{transaction.promised_seq} was promised, the leaf is at {leaf.seq}")
        self._epochs.check_proof(leaf, transaction.proof)
        return self._acquit(key, transaction.sender)

    def challenge_leaf(self, transaction: ChallengeLeaf, now_ms: int) -> None:
        """A leaf of the root that its payer may never have acknowledged."""
        leaf = transaction.leaf
        poster = self._epochs.check_challengeable(leaf.epoch, now_ms).poster
        self._bonds.check_bonded(poster)
        self._epochs.check_proof(leaf, transaction.proof)
        self._open((Fault.LEAF, leaf.epoch, hash_leaf(leaf)), transaction.sender, poster, now_ms)

    def answer_leaf(self, transaction: AnswerLeaf, now_ms: int) -> int:
        """Credits the answerer earned: the payer did acknowledge it, with the present key or the one before."""
        leaf = transaction.leaf
        check_numbers(leaf.epoch, leaf.seq, leaf.cum, head=leaf.head)
        key = (Fault.LEAF, leaf.epoch, hash_leaf(leaf))
        self._check_answerable(key, now_ms)
        state = self._find_channel(leaf.channel)
        ack = Acknowledgement(
            channel=leaf.channel, seq=leaf.seq, cum=leaf.cum, head=leaf.head, signature=transaction.signature
        )
        self._words.check_acknowledged(sessions_of(state), ack)
        return self._acquit(key, transaction.sender)

    def prove_bad_head(self, transaction: ProveBadHead, now_ms: int) -> tuple[int, int]:
        """Credits slashed at once, and the prover's part: the poster signed another commitment than it posted."""
        signed, sender = transaction.signed, transaction.sender
        committed = self._epochs.check_challengeable(signed.commitment.epoch, now_ms)
        self._words.check_commitment(self._bonds.check_bonded(committed.poster).signer, signed)
        if signed.commitment == committed.commitment:
            raise SettlementError("head_matches", "the poster signed what it posted")
        key = (Fault.HEAD, signed.commitment.epoch, WHOLE_EPOCH)
        self._check_new(key)
        self._put(key, ChallengeState(
            fault=key[0], epoch=key[1], subject=key[2], challenger=sender, respond_by_ms=now_ms, verdict=Verdict.SLASHED,
        ))  # fmt: skip
        return self._bonds.slash(committed.poster, sender)

    def finalize(self, transaction: Finalize, now_ms: int) -> tuple[int, int]:
        """Credits slashed and the accuser's part, for a challenge that nobody answered in time. Its stake returns."""
        key = (transaction.fault, transaction.epoch, transaction.subject)
        state = self._check_undecided(key)
        if now_ms < state.respond_by_ms:
            raise SettlementError("answer_pending", f"an answer may come for {state.respond_by_ms - now_ms} ms")
        poster = self._epochs.check_known(state.epoch).poster
        self._decide(key, Verdict.SLASHED)
        self._bonds.acquit(poster)
        self._accounts.credit(state.challenger, self._terms.stake)
        return self._bonds.slash(poster, state.challenger)

    def _open(self, key: Key, challenger: Address, poster: Address, now_ms: int) -> None:
        self._check_new(key)
        self._accounts.check_free(challenger, self._terms.stake)
        self._accounts.debit(challenger, self._terms.stake)
        self._bonds.accuse(poster)
        self._put(key, ChallengeState(
            fault=key[0], epoch=key[1], subject=key[2], challenger=challenger,
            respond_by_ms=now_ms + self._terms.respond_ms, verdict=Verdict.OPEN,
        ))  # fmt: skip

    def _acquit(self, key: Key, answerer: Address) -> int:
        self._decide(key, Verdict.ANSWERED)
        self._bonds.acquit(self._epochs.check_known(key[1]).poster)
        self._accounts.credit(answerer, self._terms.stake)
        return self._terms.stake

    def _put(self, key: Key, state: ChallengeState) -> None:
        self._challenges[key] = state

    def _decide(self, key: Key, verdict: Verdict) -> None:
        self._challenges[key] = msgspec.structs.replace(self._challenges[key], verdict=verdict)

    def _check_new(self, key: Key) -> None:
        if key in self._challenges:
            raise SettlementError("challenge_exists", "this was brought up before")

    def _check_undecided(self, key: Key) -> ChallengeState:
        state = self._challenges.get(key)
        if state is None:
            raise SettlementError("unknown_challenge", "nobody brought this up")
        if state.verdict is not Verdict.OPEN:
            raise SettlementError("challenge_decided", f"this challenge is {state.verdict.value}")
        return state

    def _check_answerable(self, key: Key, now_ms: int) -> None:
        if now_ms >= self._check_undecided(key).respond_by_ms:
            raise SettlementError("answer_too_late", "the time for an answer is over")
