"""One root over the leaves of all shards: asks each for its part of a closed epoch, merges, publishes and posts.

Rules of this file: an epoch is closed here only when every shard has closed it, because every shard has promised. One that is
late or dead delays its epochs, and breaks no promise; providers can claim directly meanwhile.
"""

from __future__ import annotations

import msgspec

from quiver.aggregator.archive import Archive
from quiver.aggregator.bonding import Bonding
from quiver.aggregator.closing import SUBMIT_RETRY_S, Closing
from quiver.aggregator.fetch import Conversation, conversation
from quiver.aggregator.published import decode_manifest, decode_page
from quiver.aggregator.shards import Shards, shard_of
from quiver.aggregator.window import Entry, Window
from quiver.errors import PeerError, QuiverError
from quiver.ids import PeerId
from quiver.runtime import Runtime
from quiver.trace import EvidenceRecorded
from quiver.values.frames import AskShard, ShardAnswer


class CommitterClosing(Closing):
    """`Closing` whose entries come from shards. Its window has none of its own: it only remembers which epoch is next."""

    def __init__(self, runtime: Runtime, window: Window, archive: Archive, bonding: Bonding, shards: Shards) -> None:
        super().__init__(runtime, window, archive, bonding)
        self._shards = shards
        self._late: dict[PeerId, None] = {}

    async def run(self) -> None:
        """Close every epoch once all shards have, for ever. What was before the very first start is nobody's promise here."""
        clock, store, epoch_ms = self._runtime.clock, self._runtime.store, self._runtime.params.epoch_ms
        if self._window.next_open == 0:
            # Durable before there is a bond: from the moment a shard sees one it promises, also while we are dead.
            await store.commit(self._window.close(clock.utc_ms() // epoch_ms - 1))
        await self._bonding.ensure()
        while True:
            await self.close_due_epochs()
            await clock.sleep(min(SUBMIT_RETRY_S, (epoch_ms - clock.utc_ms() % epoch_ms) / 1000))

    async def close_due_epochs(self) -> None:
        """Commit every epoch that all shards have closed, oldest first."""
        store, current = self._runtime.store, self._runtime.clock.utc_ms() // self._runtime.params.epoch_ms
        while (epoch := self._window.next_open) < current:
            entries = await self._gather(epoch)
            if entries is None:
                break
            if entries:
                await self._close(epoch, entries)
            else:
                await store.commit(self._window.close(epoch))
        await self._advance()

    async def _gather(self, epoch: int) -> list[Entry] | None:
        """All shards' leaves of an epoch; None while one has not closed it or can't be asked."""
        entries: list[Entry] = []
        for number, peer in enumerate(self._shards.peers):
            try:
                part = await self._ask(number, peer, epoch)
            except (QuiverError, msgspec.MsgspecError) as error:
                self._say_late(peer, epoch, error)
                return None
            if part is None:
                return None
            self._late.pop(peer, None)
            entries += part
        return entries

    async def _ask(self, number: int, peer: PeerId, epoch: int) -> list[Entry] | None:
        async with conversation(self._runtime, peer) as shard:
            answer = await shard.ask(AskShard(epoch=epoch), ShardAnswer)
            if not answer.closed:
                return None
            return [] if answer.published is None else await self._fetch(shard, number, epoch, answer.published)

    async def _fetch(self, shard: Conversation, number: int, epoch: int, name: bytes) -> list[Entry]:
        manifest, part = decode_manifest(await shard.fetch(name)), []
        for line in manifest.pages:
            for leaf in decode_page(await shard.fetch(line.name)):
                if shard_of(leaf.provider, len(self._shards.peers)) != number:
                    raise PeerError(f"shard {number} handed in a leaf of another shard", peer_id=shard.peer_id)
                part.append(Entry(leaf=leaf.leaf(epoch), provider=leaf.provider, acknowledgement=leaf.acknowledgement))
        if (len(part), manifest.epoch) != (manifest.count, epoch):
            raise PeerError(f"shard {number} handed in a manifest of something else", peer_id=shard.peer_id)
        return part

    def _say_late(self, peer: PeerId, epoch: int, error: Exception) -> None:
        """Once, until the shard is back."""
        if peer not in self._late:
            self._late[peer] = None
            runtime = self._runtime
            detail = f"shard_late: epoch {epoch} waits for shard {self._shards.number_of(peer)}: {error}"
            runtime.trace.emit(
                EvidenceRecorded(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=peer, kind="shard_late", detail=detail
                )
            )
