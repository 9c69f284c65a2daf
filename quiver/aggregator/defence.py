"""Answering accusations: whoever staked against our root without cause pays us for the answer.

Rules of this file: an accusation is answered when the archive holds what answers it; one that is true stays unanswered. The
place in the ledger's events is durable, and moves on only past accusations that are decided or can't be answered.
"""

from __future__ import annotations

from quiver.aggregator.archive import Archive, Found
from quiver.aggregator.window import META
from quiver.errors import SettlementError, Unavailable
from quiver.ids import ChannelId
from quiver.runtime import Runtime
from quiver.settlement.challenges import subject_of_omission
from quiver.settlement.merkle import hash_leaf
from quiver.settlement.terms import Terms
from quiver.values.ledger import (
    AnswerLeaf,
    AnswerOmission,
    ChallengeLeaf,
    ChallengeOmission,
    Fault,
    Proof,
    Transaction,
    Verdict,
)

_CURSOR = b"defence_cursor"
# Of the time there is for an answer, this many looks; no look is further from the next than a minute.
LOOKS = 8
LOOK_S_MAX = 60.0


class Defence:
    """Watches the ledger for one poster."""

    def __init__(self, runtime: Runtime, archive: Archive) -> None:
        self._runtime = runtime
        self._archive = archive
        row = runtime.store.get(META, _CURSOR)
        self._cursor = 0 if row is None else int.from_bytes(row, "big")
        self._every_s = min(LOOK_S_MAX, Terms.from_params(runtime.params).respond_ms / 1000 / LOOKS)

    async def run(self) -> None:
        """Look and answer, for ever."""
        while True:
            await self.look()
            await self._runtime.clock.sleep(self._every_s)

    async def look(self) -> None:
        """Answer what can be answered of the accusations that are new."""
        runtime, start = self._runtime, self._cursor
        while events := runtime.ledger.events(self._cursor):
            for event in events:
                if (answer := self._find_answer(event.transaction)) is not None:
                    try:
                        await runtime.ledger.submit(answer)
                    except SettlementError:
                        # Decided meanwhile, by whoever answered first.
                        pass
                    except Unavailable:
                        return
                self._cursor = event.index + 1
        if self._cursor != start:
            await runtime.store.commit([(META, _CURSOR, self._cursor.to_bytes(8, "big"))])

    def _find_answer(self, transaction: Transaction) -> Transaction | None:
        match transaction:
            case ChallengeOmission(promise=promise):
                epoch, channel = promise.epoch, promise.channel
                subject = subject_of_omission(channel, promise.seq)
                if not self._is_open(Fault.OMISSION, epoch, subject) or (found := self._prove(epoch, channel)) is None:
                    return None
                one, proof = found
                return AnswerOmission(
                    sender=self._runtime.signer.account, promised_seq=promise.seq, leaf=one.leaf, proof=proof
                )
            case ChallengeLeaf(leaf=leaf):
                if not self._is_open(Fault.LEAF, leaf.epoch, hash_leaf(leaf)):
                    return None
                found = self._prove(leaf.epoch, leaf.channel)
                if found is None or found[0].leaf != leaf:
                    return None
                signature = found[0].acknowledgement.signature
                return AnswerLeaf(sender=self._runtime.signer.account, leaf=leaf, signature=signature)
            case _:
                return None

    def _is_open(self, fault: Fault, epoch: int, subject: bytes) -> bool:
        """Whether it is our root that stands accused, and nobody has decided."""
        ledger = self._runtime.ledger
        posted, state = ledger.epoch(epoch), ledger.challenge(fault, epoch, subject)
        is_ours = posted is not None and posted.poster == self._runtime.signer.account
        return is_ours and state is not None and state.verdict is Verdict.OPEN

    def _prove(self, epoch: int, channel: ChannelId) -> tuple[Found, Proof] | None:
        state = self._runtime.ledger.channel(channel)
        return None if state is None else self._archive.prove(epoch, state.provider, channel)
