"""A shard's half of an epoch: it closes its leaves and hands them over, and takes back what answers its own providers.

::

    open -> handed over (closed, durable, named)  -> submitted (the root is posted; the pages with own leaves are here)

Rules of this file: every step is durable before the next and may be taken again. A handover is kept until the committer's root is
on the ledger and every leaf of it was found under that root.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from quiver.aggregator.archive import SHARD_TABLES, Archive, Put
from quiver.aggregator.bonding import Bonding
from quiver.aggregator.closing import SUBMIT_RETRY_S, Closing
from quiver.aggregator.epochs import EpochStatus, KeptCommitment, put_commitment
from quiver.aggregator.fetch import Conversation, conversation
from quiver.aggregator.published import ClosedEpoch, PublishedLeaf, decode_manifest, decode_page
from quiver.aggregator.shards import Shards
from quiver.aggregator.window import Entry, Window, epoch_key
from quiver.errors import QuiverError, ReceiptMismatch, Unavailable
from quiver.runtime import Runtime
from quiver.trace import EvidenceRecorded
from quiver.values.frames import AskEpoch, EpochAnswer, ShardAnswer
from quiver.values.ledger import EpochState

HANDOVERS = "shard_handovers"


class ShardClosing(Closing):
    """`Closing` that posts nothing: the committer does."""

    def __init__(self, runtime: Runtime, window: Window, archive: Archive, bonding: Bonding, shards: Shards) -> None:
        super().__init__(runtime, window, archive, bonding)
        self._shards = shards
        self.handed_over = Archive(runtime.store, SHARD_TABLES)
        self._handovers = {int.from_bytes(key, "big"): name for key, name in runtime.store.scan(HANDOVERS)}
        self._sealed = window.next_open
        "As `next_open`, but durable."
        self._said = ""

    def status(self, epoch: int) -> EpochStatus:
        """Where an epoch stands."""
        return EpochStatus.CLOSING if epoch in self._handovers else super().status(epoch)

    def tell(self, epoch: int) -> ShardAnswer:
        """What the committer asks."""
        closed = epoch < self._sealed
        return ShardAnswer(epoch=epoch, closed=closed, published=self._handovers.get(epoch) if closed else None)

    async def run(self) -> None:
        """Hand over every epoch after its end, and take roots back, for ever."""
        clock, epoch_ms = self._runtime.clock, self._runtime.params.epoch_ms
        await self._drop_closed_leaves()
        while True:
            await self.close_due_epochs()
            await clock.sleep(min(SUBMIT_RETRY_S, (epoch_ms - clock.utc_ms() % epoch_ms) / 1000))

    async def close_due_epochs(self) -> None:
        """One look: close what is over, and take back what was posted."""
        runtime = self._runtime
        # One time for both steps: an epoch that ends while an earlier one is written has receipts, and is due at the next look.
        now_ms = runtime.clock.utc_ms()
        for epoch in self._window.due_epochs(now_ms):
            await self._close(epoch, self._window.freeze(epoch))
        if self._sealed < (current := now_ms // runtime.params.epoch_ms):
            # Epochs without a receipt are closed too: the committer must know that nothing is missing.
            await runtime.store.commit(self._window.close(current - 1))
            self._sealed = self._window.next_open
        for epoch in list(self._handovers):
            if (posted := runtime.ledger.epoch(epoch)) is not None:
                await self._take_back(epoch, posted)
        for kept in list(self._unfinished.values()):
            if not await self._finish(kept):
                break

    async def _close(self, epoch: int, entries: Iterable[Entry]) -> None:
        store, manifest = self._runtime.store, await self._publish(self.handed_over, epoch, entries)
        name, rows = self.handed_over.put_manifest(manifest)
        await store.commit([*self._window.close(epoch), *rows, (HANDOVERS, epoch_key(epoch), name)])
        self._handovers[epoch], self._sealed = name, self._window.next_open
        await self._drop_leaves(epoch)
        await self._forget(epoch - self._retained)

    async def _take_back(self, epoch: int, posted: EpochState) -> None:
        """Handed over to submitted, or lost; an attempt that fails is made again at the next look."""
        if posted.poster != self._bonding.poster.account:
            kept = KeptCommitment(commitment=posted.commitment, status=EpochStatus.LOST)
            return await self._settle(epoch, kept, [])
        try:
            async with conversation(self._runtime, self._shards.committer) as committer:
                await self._fetch(committer, epoch, posted)
        except (QuiverError, msgspec.MsgspecError) as error:
            self._say(epoch, error)

    async def _fetch(self, committer: Conversation, epoch: int, posted: EpochState) -> None:
        answer = await committer.ask(AskEpoch(epoch=epoch), EpochAnswer)
        if answer.published is None or answer.status not in (EpochStatus.SUBMITTED, EpochStatus.FINAL):
            raise Unavailable(f"the committer says epoch {epoch} is {answer.status}, and the ledger has its root")
        manifest = decode_manifest(await committer.fetch(answer.published))
        if manifest.commitment != posted.commitment:
            raise ReceiptMismatch(f"proof_root: the committer's manifest of epoch {epoch} is not of the posted root")
        await self._fetch_pages(committer, ClosedEpoch(manifest))
        name, rows = self._archive.put_manifest(manifest)
        kept = KeptCommitment(
            commitment=posted.commitment, published=name, signature=answer.signature, status=EpochStatus.SUBMITTED
        )
        await self._settle(epoch, kept, rows)

    async def _fetch_pages(self, committer: Conversation, closed: ClosedEpoch) -> None:
        """The pages with leaves of our own, and in them every one of these: what we promised is under the root."""
        epoch, pages = closed.manifest.epoch, dict[int, frozenset[PublishedLeaf]]()
        for leaf in self._own_leaves(epoch):
            number = closed.page_of(leaf.provider, leaf.channel)
            if number is not None and number not in pages:
                data = await committer.fetch(closed.manifest.pages[number].name)
                await self._runtime.store.commit(self._archive.put_page(epoch, number, data))
                pages[number] = frozenset(decode_page(data))
            if number is None or leaf not in pages[number]:
                raise ReceiptMismatch(f"proof_missing: channel {leaf.channel.hex()} is not under the root of {epoch}")

    def _own_leaves(self, epoch: int) -> Iterable[PublishedLeaf]:
        closed = self.handed_over.closed(epoch)
        assert closed is not None, f"epoch {epoch} was handed over and has no manifest"
        for number in range(len(closed.manifest.pages)):
            yield from self.handed_over.page(epoch, number)

    async def _settle(self, epoch: int, kept: KeptCommitment, rows: list[Put]) -> None:
        await self._runtime.store.commit([*rows, put_commitment(kept), (HANDOVERS, epoch_key(epoch), None)])
        del self._handovers[epoch]
        if kept.status is EpochStatus.SUBMITTED:
            self._unfinished[epoch] = kept
        await self._delete(self.handed_over.forget(epoch))

    def _say(self, epoch: int, error: Exception) -> None:
        if self._said != (said := f"take_back: epoch {epoch}: {error}"):
            self._said = said
            runtime, peer = self._runtime, self._shards.committer
            runtime.trace.emit(
                EvidenceRecorded(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=peer, kind="take_back", detail=said
                )
            )
