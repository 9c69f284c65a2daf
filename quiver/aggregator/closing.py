"""The way of an epoch from its end to its finality; `epochs` says which steps there are.

Rules of this file: it awaits and moves values. Every step may be cut off by kill -9 and is then taken again from what is durable.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import msgspec

from quiver.aggregator.archive import Archive, Put
from quiver.aggregator.bonding import Bonding
from quiver.aggregator.epochs import (
    COMMITMENTS,
    EpochStatus,
    KeptCommitment,
    load_commitment,
    load_commitments,
    put_commitment,
)
from quiver.aggregator.published import Manifest, Publisher
from quiver.aggregator.usage import forget_usage
from quiver.aggregator.window import LEAVES, RECEIPTS, Entry, Window, epoch_key
from quiver.errors import SettlementError, Unavailable
from quiver.receipts.promises import sign_commitment
from quiver.runtime import Runtime
from quiver.settlement.terms import Terms
from quiver.trace import EpochCommitted, EvidenceRecorded
from quiver.values.ledger import SubmitEpoch

# At one-hour epochs a month; after that a provider can still claim directly.
EPOCHS_RETAINED = 720
# The ledger's clock may lag behind ours, and a chain may be down: ask again this much later.
SUBMIT_RETRY_S = 5.0
# Rows deleted in one commit, so that receipts never wait long behind it.
ROWS_PER_COMMIT = 1000
_REPLACE = msgspec.structs.replace


class Closing:
    """Closes epochs of one window."""

    def __init__(self, runtime: Runtime, window: Window, archive: Archive, bonding: Bonding) -> None:
        self._runtime = runtime
        self._window = window
        self._archive = archive
        self._bonding = bonding
        terms = Terms.from_params(runtime.params)
        self._window_ms = terms.challenge_window_ms
        # An epoch that may still be challenged, or answered for, is never forgotten.
        challengeable = -(-(terms.challenge_window_ms + terms.respond_ms) // terms.epoch_ms)
        self._retained = max(EPOCHS_RETAINED, challengeable + 1)
        self._unfinished: dict[int, KeptCommitment] = {
            kept.commitment.epoch: kept
            for kept in load_commitments(runtime.store)
            if kept.status in (EpochStatus.CLOSING, EpochStatus.SUBMITTED)
        }
        "By epoch, oldest first; after a restart the work that was begun."

    def status(self, epoch: int) -> EpochStatus:
        """Where an epoch stands."""
        if self._window.is_open(epoch):
            return EpochStatus.OPEN
        kept = load_commitment(self._runtime.store, epoch)
        return EpochStatus.UNKNOWN if kept is None else kept.status

    async def run(self) -> None:
        """Close every epoch after its end, for ever; after a restart first finish what was begun."""
        clock, epoch_ms = self._runtime.clock, self._runtime.params.epoch_ms
        await self._bonding.ensure()
        await self._drop_closed_leaves()
        while True:
            await self.close_due_epochs()
            await clock.sleep((epoch_ms - clock.utc_ms() % epoch_ms) / 1000)

    async def close_due_epochs(self) -> None:
        """Commit every epoch that is over, oldest first, and return once the ledger holds them."""
        for epoch in self._window.due_epochs(self._runtime.clock.utc_ms()):
            await self._close(epoch, self._window.freeze(epoch))
        await self._advance()

    async def _advance(self) -> None:
        for kept in list(self._unfinished.values()):
            if kept.status is EpochStatus.CLOSING:
                await self._submit(kept)
        for kept in list(self._unfinished.values()):
            if not await self._finish(kept):
                break

    async def _publish(self, archive: Archive, epoch: int, entries: Iterable[Entry]) -> Manifest:
        """Write the pages; they are nobody's while no manifest names them."""
        publisher, number = Publisher(epoch, entries), 0
        while (page := publisher.next_page()) is not None:
            await self._runtime.store.commit(archive.put_page(epoch, number, page))
            number += 1
        return publisher.finish()

    async def _close(self, epoch: int, entries: Iterable[Entry]) -> None:
        """Open to closing. Batches on their way to the disk get there before these: a store keeps their order."""
        store, manifest = self._runtime.store, await self._publish(self._archive, epoch, entries)
        name, rows = self._archive.put_manifest(manifest)
        kept = await self._sign(KeptCommitment(commitment=manifest.commitment, published=name))
        # With this one batch the epoch is closed: its root exists exactly when nothing can join it any more.
        await store.commit([*self._window.close(epoch), *rows, put_commitment(kept)])
        self._unfinished[epoch] = kept
        await self._drop_leaves(epoch)
        await self._forget(epoch - self._retained)

    async def _drop_leaves(self, epoch: int) -> None:
        await self._delete((LEAVES, key, None) for key, _ in self._runtime.store.scan(LEAVES, epoch_key(epoch)))

    async def _sign(self, kept: KeptCommitment) -> KeptCommitment:
        if kept.signature or not self._bonding.is_binding:
            return kept
        signature = await sign_commitment(self._bonding.poster, self._runtime.ledger, kept.commitment)
        return _REPLACE(kept, signature=signature)

    async def _submit(self, kept: KeptCommitment) -> None:
        """Closing to submitted, or lost."""
        runtime, commitment = self._runtime, kept.commitment
        transaction = SubmitEpoch(sender=runtime.signer.account, commitment=commitment)
        while (held := runtime.ledger.epoch(commitment.epoch)) is None:
            try:
                # The bond may have been slashed since the last root.
                if await self._bonding.ensure():
                    await runtime.ledger.submit(transaction)
                    continue
            except (SettlementError, Unavailable):
                pass
            if runtime.ledger.epoch(commitment.epoch) is None:
                await runtime.clock.sleep(SUBMIT_RETRY_S)
        lost = held.commitment != commitment
        done = _REPLACE(await self._sign(kept), status=EpochStatus.LOST if lost else EpochStatus.SUBMITTED)
        await self._put(done)
        at_s, node = runtime.clock.now(), runtime.signer.peer_id
        if lost:
            detail = f"epoch_taken: the ledger holds another root for epoch {commitment.epoch}"
            runtime.trace.emit(EvidenceRecorded(at_s=at_s, node=node, peer=node, kind="epoch_taken", detail=detail))
        else:
            runtime.trace.emit(
                EpochCommitted(
                    at_s=at_s, node=node, epoch=commitment.epoch, root=commitment.root, count=commitment.count
                )
            )

    async def _finish(self, kept: KeptCommitment) -> bool:
        """Submitted to final, once the window is over; False before that."""
        held = self._runtime.ledger.epoch(kept.commitment.epoch)
        if held is None or self._runtime.clock.utc_ms() < held.submitted_ms + self._window_ms:
            return False
        await self._put(_REPLACE(kept, status=EpochStatus.FINAL))
        return True

    async def _put(self, kept: KeptCommitment) -> None:
        await self._runtime.store.commit([put_commitment(kept)])
        if kept.status is EpochStatus.SUBMITTED:
            self._unfinished[kept.commitment.epoch] = kept
        else:
            del self._unfinished[kept.commitment.epoch]

    async def _drop_closed_leaves(self) -> None:
        """What a kill between closing and deleting left behind."""
        first_open = epoch_key(self._window.next_open)
        await self._delete((LEAVES, key, None) for key, _ in self._runtime.store.scan(LEAVES) if key[:8] < first_open)

    async def _forget(self, until: int) -> None:
        """Delete everything of epochs up to `until`; their commitments last, so that a kill leaves nothing nameless."""
        store = self._runtime.store
        for kept in load_commitments(store):
            if (epoch := kept.commitment.epoch) > until:
                break
            key = epoch_key(epoch)
            await self._delete(self._archive.forget(epoch))
            await self._delete((RECEIPTS, row, None) for row, _ in store.scan(RECEIPTS, key))
            await self._delete(forget_usage(store, epoch))
            await store.commit([(COMMITMENTS, key, None)])

    async def _delete(self, rows: Iterable[Put]) -> None:
        left = iter(rows)
        while batch := list(islice(left, ROWS_PER_COMMIT)):
            await self._runtime.store.commit(batch)
