"""Where an epoch stands: open, closing, submitted, final; and what is kept of it on the way.

::

    open       receipts come in, or it is over and nobody has looked yet
    closing    its root is durable here, and not known to be on the ledger
    submitted  the ledger holds our root; it may still be challenged
    final      nobody may challenge it any more
    lost       the ledger holds somebody else's root

No step goes back, and each is durable before it is acted upon: a kill between two of them is made up for by taking the next again.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from quiver.aggregator.window import epoch_key
from quiver.ports import Store
from quiver.values.ledger import Commitment

COMMITMENTS = "aggregator_commitments"


class EpochStatus(StrEnum):
    """See the top of this file."""

    UNKNOWN = "unknown"
    OPEN = "open"
    CLOSING = "closing"
    SUBMITTED = "submitted"
    FINAL = "final"
    LOST = "lost"


class KeptCommitment(msgspec.Struct, frozen=True, kw_only=True):
    """Row of `aggregator_commitments`."""

    commitment: Commitment
    published: bytes = b""
    "Name of the manifest."
    signature: bytes = b""
    "Over the commitment; empty while no bond is behind it."
    status: EpochStatus = EpochStatus.CLOSING


_ENCODE = msgspec.msgpack.Encoder().encode
_KEPT = msgspec.msgpack.Decoder(KeptCommitment)


def put_commitment(kept: KeptCommitment) -> tuple[str, bytes, bytes | None]:
    """Its row."""
    return (COMMITMENTS, epoch_key(kept.commitment.epoch), _ENCODE(kept))


def load_commitment(store: Store, epoch: int) -> KeptCommitment | None:
    """As last committed; None for an epoch that was never closed here, or whose number has no bytes."""
    if not 0 <= epoch < 1 << 64:
        return None
    row = store.get(COMMITMENTS, epoch_key(epoch))
    return None if row is None else _KEPT.decode(row)


def load_commitments(store: Store) -> Iterator[KeptCommitment]:
    """All of them, oldest first."""
    return (_KEPT.decode(row) for _, row in store.scan(COMMITMENTS))
