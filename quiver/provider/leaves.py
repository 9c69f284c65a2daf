"""Which epochs hold this provider's channels, and their proofs once an aggregator gave them: what claims and answers are made of.

Rules of this file: no I/O but reading the store at start, no clock. A method changes the object and returns the batch to commit.
Durable, because a provider that restarts still wants its money, and a leaf may be challenged for days.
"""

from __future__ import annotations

import msgspec

from quiver.errors import ReceiptMismatch
from quiver.ids import ChannelId
from quiver.ports import Batch, Store
from quiver.settlement import merkle
from quiver.settlement.channels import leaf_of
from quiver.values.frames import ProofAnswer
from quiver.values.ledger import Commitment, Leaf, Proof
from quiver.values.receipt import Acknowledgement

TABLE = "provider_leaves"
# Epochs remembered a channel, waiting or proven; leaves are cumulative, so an older one is worth nothing once a newer one is there.
EPOCHS_MAX = 64


class KeptLeaf(msgspec.Struct, frozen=True, kw_only=True):
    """Row of `provider_leaves`, under channel32 | epoch8; an empty row is an epoch whose proof is not at hand."""

    leaf: Leaf
    proof: Proof
    acknowledgement: Acknowledgement
    "Of exactly this leaf: what a claim needs, and what answers a challenge of it."


_ENCODE = msgspec.msgpack.Encoder().encode
_KEPT = msgspec.msgpack.Decoder(KeptLeaf)


class Leaves:
    """By channel, then by epoch in ascending order."""

    def __init__(self) -> None:
        self._epochs: dict[ChannelId, dict[int, KeptLeaf | None]] = {}

    @classmethod
    def load(cls, store: Store) -> Leaves:
        """As last committed."""
        self = cls()
        for key, row in store.scan(TABLE):
            epochs = self._epochs.setdefault(ChannelId(key[:32]), {})
            epochs[int.from_bytes(key[32:], "big")] = _KEPT.decode(row) if row else None
        return self

    def on_ingested(self, channel: ChannelId, epoch: int) -> Batch:
        """An aggregator took receipts of `channel` into `epoch`; a leaf proven before is outdated while the epoch is open."""
        epochs = self._epochs.setdefault(channel, {})
        batch: list[tuple[str, bytes, bytes | None]] = [(TABLE, _key(channel, epoch), b"")]
        epochs[epoch] = None
        self._epochs[channel] = dict(sorted(epochs.items()))
        for old in list(self._epochs[channel])[:-EPOCHS_MAX]:
            del self._epochs[channel][old]
            batch.append((TABLE, _key(channel, old), None))
        return batch

    def waiting(self, before: int) -> list[tuple[ChannelId, int]]:
        """(channel, epoch) of closed epochs whose proofs are missing, newest first: it proves the most."""
        return [
            (channel, epoch)
            for channel in sorted(self._epochs)
            for epoch, kept in reversed(self._epochs[channel].items())
            if kept is None and epoch < before
        ]

    def on_proof(self, kept: KeptLeaf) -> Batch:
        """A proof that `check_answer` let pass."""
        channel, epoch = kept.leaf.channel, kept.leaf.epoch
        self._epochs[channel][epoch] = kept
        return [(TABLE, _key(channel, epoch), _ENCODE(kept))]

    def forget(self, channel: ChannelId, epoch: int) -> Batch:
        """Nobody will prove this any more."""
        self._epochs[channel].pop(epoch, None)
        return [(TABLE, _key(channel, epoch), None)]

    def newest(self, channel: ChannelId) -> KeptLeaf | None:
        """The newest leaf of a channel that is proven."""
        proven = [kept for kept in self._epochs.get(channel, {}).values() if kept is not None]
        return proven[-1] if proven else None

    def find(self, channel: ChannelId, epoch: int) -> KeptLeaf | None:
        """The proven leaf of a channel in an epoch."""
        return self._epochs.get(channel, {}).get(epoch)

    def validate(self) -> None:
        """Own invariants."""
        for channel, epochs in self._epochs.items():
            assert list(epochs) == sorted(epochs) and len(epochs) <= EPOCHS_MAX
            for epoch, kept in epochs.items():
                assert kept is None or (kept.leaf.channel, kept.leaf.epoch) == (channel, epoch)


def check_answer(answer: ProofAnswer, channel: ChannelId, epoch: int, posted: Commitment) -> KeptLeaf:
    """What an aggregator proved, against the root on the ledger; `ReceiptMismatch` for anything less."""
    leaf, proof, ack = answer.leaf, answer.proof, answer.acknowledgement
    if leaf is None or proof is None or ack is None:
        raise ReceiptMismatch(f"proof_missing: no leaf of channel {channel.hex()} in epoch {epoch} was shown")
    if (leaf.channel, leaf.epoch) != (channel, epoch) or leaf != leaf_of(ack, epoch):
        raise ReceiptMismatch("proof_other: the leaf is another's, or its acknowledgement is over another state")
    merkle.verify(leaf, proof, posted)
    return KeptLeaf(leaf=leaf, proof=proof, acknowledgement=ack)


def _key(channel: ChannelId, epoch: int) -> bytes:
    return channel + epoch.to_bytes(8, "big")
