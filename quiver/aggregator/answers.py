"""What an aggregator answers to whoever asks: proofs, heads, epochs and published content. Nothing here changes anything.

Each answer has a price in `budget` units; what a question costs is bounded by its answer's size, not by the size of an epoch.
"""

from __future__ import annotations

from quiver.aggregator.archive import Archive
from quiver.aggregator.closing import Closing
from quiver.aggregator.epochs import EpochStatus, KeptCommitment, load_commitment
from quiver.aggregator.shard import ShardClosing
from quiver.aggregator.window import Window, load_acknowledgement
from quiver.errors import PeerError
from quiver.identity.peer_id import public_key_of
from quiver.ids import Address, ChannelId, PeerId
from quiver.runtime import Runtime
from quiver.settlement.channels import CLAIMS_PER_BATCH_MAX
from quiver.values.frames import (
    AskBatch,
    AskContent,
    AskEpoch,
    AskHeads,
    AskProof,
    AskShard,
    BatchAnswer,
    ContentAnswer,
    EpochAnswer,
    HeadsAnswer,
    ProofAnswer,
    ShardAnswer,
)

Question = AskProof | AskBatch | AskHeads | AskEpoch | AskContent | AskShard
QUESTIONS = (AskProof, AskBatch, AskHeads, AskEpoch, AskContent, AskShard)
Answer = ProofAnswer | BatchAnswer | HeadsAnswer | EpochAnswer | ContentAnswer | ShardAnswer
# Acknowledgements in one answer: about 50 KB.
HEADS_PER_PAGE = 256


class Answers:
    """Over one aggregator's window and archive."""

    def __init__(self, runtime: Runtime, window: Window, archive: Archive, closing: Closing) -> None:
        self._runtime = runtime
        self._window = window
        self._archive = archive
        self._closing = closing

    def price(self, question: Question) -> float:
        """Units of `budget`."""
        if isinstance(question, AskBatch):
            return float(max(1, len(question.channels)))
        if isinstance(question, AskHeads):
            # A page of heads is as many reads.
            return 8.0
        return 0.25 if isinstance(question, AskEpoch | AskShard) else 1.0

    def answer(self, peer: PeerId, question: Question) -> Answer:
        """`PeerError` for a question that has no answer."""
        match question:
            case AskProof():
                return self.prove(question)
            case AskBatch():
                return self.prove_batch(peer, question)
            case AskHeads():
                return self.tell_heads(peer, question)
            case AskEpoch():
                return self.tell_epoch(question)
            case AskContent():
                return self.give(question)
            case AskShard():
                if not isinstance(self._closing, ShardClosing):
                    raise PeerError("this aggregator is no shard", peer_id=peer)
                return self._closing.tell(question.epoch)

    def prove(self, question: AskProof) -> ProofAnswer:
        """Leaf, proof and acknowledgement of a channel in a closed epoch whose root the ledger holds, or will."""
        kept, found = self._committed(question.epoch), None
        if kept is not None and (provider := self._provider_of(question.channel)) is not None:
            found = self._archive.prove(question.epoch, provider, question.channel)
        if kept is None or found is None:
            return ProofAnswer(
                epoch=question.epoch, channel=question.channel, commitment=None, leaf=None, proof=None, acknowledgement=None
            )  # fmt: skip
        one, proof = found
        return ProofAnswer(
            epoch=question.epoch, channel=question.channel, commitment=kept.commitment, leaf=one.leaf, proof=proof,
            acknowledgement=one.acknowledgement, signature=kept.signature,
        )  # fmt: skip

    def prove_batch(self, peer: PeerId, question: AskBatch) -> BatchAnswer:
        """What a `ClaimBatch` needs, for those of the channels that are in the epoch."""
        if not 0 < len(question.channels) <= CLAIMS_PER_BATCH_MAX:
            raise PeerError(f"a batch is 1 to {CLAIMS_PER_BATCH_MAX} channels", peer_id=peer)
        kept = self._committed(question.epoch)
        if kept is None:
            return BatchAnswer(epoch=question.epoch, commitment=None, signature=b"", acknowledgements=(), proof=None)
        places = [(self._provider_of(channel), channel) for channel in question.channels]
        wanted = [(provider, channel) for provider, channel in places if provider is not None]
        found, proof = self._archive.prove_many(question.epoch, wanted)
        return BatchAnswer(
            epoch=question.epoch, commitment=kept.commitment, signature=kept.signature,
            acknowledgements=tuple(one.acknowledgement for one in found), proof=proof,
        )  # fmt: skip

    def tell_heads(self, peer: PeerId, question: AskHeads) -> HeadsAnswer:
        """One page of the asking key's channels. Only what is durable is told, so nothing told is ever taken back."""
        page = self._window.channels_of(public_key_of(peer), question.after, HEADS_PER_PAGE + 1)
        acks = [load_acknowledgement(self._runtime.store, channel) for channel in page[:HEADS_PER_PAGE]]
        return HeadsAnswer(
            acknowledgements=tuple(ack for ack in acks if ack is not None), more=len(page) > HEADS_PER_PAGE
        )

    def tell_epoch(self, question: AskEpoch) -> EpochAnswer:
        """Status, and once it is closed its commitment and the name of what is published."""
        kept = load_commitment(self._runtime.store, question.epoch)
        return EpochAnswer(
            epoch=question.epoch, status=self._closing.status(question.epoch).value,
            commitment=None if kept is None else kept.commitment, signature=b"" if kept is None else kept.signature,
            published=kept.published or None if kept is not None else None,
        )  # fmt: skip

    def give(self, question: AskContent) -> ContentAnswer:
        """Published bytes: of a whole epoch, or of what a shard handed over."""
        data = self._archive.content(question.name)
        if data is None and isinstance(self._closing, ShardClosing):
            data = self._closing.handed_over.content(question.name)
        return ContentAnswer(name=question.name, data=data)

    def _committed(self, epoch: int) -> KeptCommitment | None:
        kept = load_commitment(self._runtime.store, epoch)
        return None if kept is None or kept.status is EpochStatus.LOST else kept

    def _provider_of(self, channel: ChannelId) -> Address | None:
        """Leaves are sorted by it."""
        state = self._runtime.ledger.channel(channel)
        return None if state is None else state.provider
