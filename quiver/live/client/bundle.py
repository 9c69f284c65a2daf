"""Proof bundles: a receipt, how it leads to a committed leaf, and that leaf's proof. `verify_bundle.py` checks them by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quiver.errors import UsageError
from quiver.identity.signing import receipt_digest
from quiver.live.client.verify import plain
from quiver.provider.leaves import KeptLeaf
from quiver.receipts.log import IssuedReceipt
from quiver.values.ledger import Commitment


def make_bundle(
    receipts: Sequence[IssuedReceipt],
    request_id: bytes,
    kept: KeptLeaf,
    commitment: Commitment,
    *,
    max_tokens: int | None,
) -> dict[str, Any]:
    """Of the last receipt of a request that `kept` covers; `receipts` are those of its channel, oldest first."""
    covered = [receipt for receipt in receipts if receipt.body.seq <= kept.leaf.seq]
    places = [at for at, receipt in enumerate(covered) if receipt.body.request_id == request_id]
    if not places:
        raise UsageError(
            f"no receipt of request {request_id.hex()} under epoch {kept.leaf.epoch}: it was never billed, is not committed "
            "yet, or is too old to be kept here"
        )
    at = places[-1]
    receipt = covered[at]
    before = covered[at - 1].head if at else bytes(32)
    if receipt.body.seq > 1 and not (at and before):
        raise UsageError("the receipt before this one is not kept any more, so nothing shows where it stands")
    return {
        "max_tokens": max_tokens,
        "receipt": {"body": plain(receipt.body), "signature": receipt.signature.hex()},
        "head_before": before.hex(),
        "later": [receipt_digest(later.body).hex() for later in covered[at + 1 :]],
        "acknowledgement": plain(kept.acknowledgement),
        "leaf": plain(kept.leaf),
        "proof": {
            "index": kept.proof.index,
            "count": kept.proof.count,
            "siblings": [sibling.hex() for sibling in kept.proof.siblings],
        },
        "commitment": plain(commitment),
    }
