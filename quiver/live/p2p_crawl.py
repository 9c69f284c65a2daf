"""A walk through the DHT: every peer is asked for its table, bucket by bucket, and whoever it names is asked next.

A crawl sees servers only, and only those that some server knows. Rules of this file: bounded (`PEERS_MAX`, `parallel` at once),
and what a peer says of others is a hint until that other has answered itself.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from quiver.dht.distance import KEYS, REFRESH_BITS, compute_common_prefix_length, find_key_in_bucket
from quiver.errors import QuiverError, Unavailable, UsageError
from quiver.identity.peer_id import peer_id_text
from quiver.ids import PeerId, short
from quiver.live.p2p import Report, Session, describe, texts_of
from quiver.runtime import Nursery
from quiver.values.kad import KadMessage, KadType
from quiver.values.peer import PeerInfo
from quiver.wire.protocols import KAD

PEERS_MAX = 20_000
PARALLEL_MAX = 256
# Buckets in a row that name nobody new: the deeper ones of a table are empty.
EMPTY_BUCKETS_MAX = 2
PROTOCOLS_SHOWN = 3


@dataclass(kw_only=True)
class Seen:
    """One peer of the crawl."""

    info: PeerInfo
    agent: str = ""
    addresses: list[str] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    rtt_ms: float | None = None
    neighbours: dict[PeerId, None] = field(default_factory=dict)
    "Whom it named."
    error: str = ""

    def buckets(self) -> dict[int, int]:
        """Common prefix length with the peer -> how many of its neighbours have it."""
        counts: dict[int, int] = {}
        for other in self.neighbours:
            length = compute_common_prefix_length(KEYS[self.info.peer_id], KEYS[other])
            counts[length] = counts.get(length, 0) + 1
        return dict(sorted(counts.items()))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "peer": peer_id_text(self.info.peer_id), "agent": self.agent, "addresses": self.addresses,
            "protocols": self.protocols, "rtt_ms": self.rtt_ms, "buckets": self.buckets(), "error": self.error,
            "neighbours": [peer_id_text(other) for other in self.neighbours],
        }  # fmt: skip


class Crawl:
    """The walk; `await run()`, then `seen` has everybody who was named."""

    def __init__(self, session: Session, *, parallel: int, progress: Any) -> None:
        self._session = session
        self._parallel = parallel
        self._progress = progress
        self._rng = random.Random(0)
        self.seen: dict[PeerId, Seen] = {}
        self._waiting: deque[Seen] = deque()
        self._changed = asyncio.Event()
        self._busy = 0
        for info in session.known:
            self._on_named(info)

    def _on_named(self, info: PeerInfo) -> None:
        if info.peer_id != self._session.host.peer_id and info.peer_id not in self.seen and len(self.seen) < PEERS_MAX:
            one = self.seen[info.peer_id] = Seen(info=info)
            self._waiting.append(one)
            self._progress.total = len(self.seen)
            self._changed.set()

    async def run(self) -> None:
        """Until nobody is left to ask."""
        async with Nursery() as nursery:
            for _ in range(self._parallel):
                nursery.start(self._work())

    async def _work(self) -> None:
        while True:
            if self._waiting:
                self._busy += 1
                await self._visit(self._waiting.popleft())
                self._busy -= 1
                self._progress.update()
                self._changed.set()
            elif self._busy:
                self._changed.clear()
                await self._changed.wait()
            else:
                return

    async def _visit(self, one: Seen) -> None:
        host, peer, timeout_s = self._session.host, one.info.peer_id, self._session.timeout_s
        if one.info.addresses:
            host.learn(one.info)
            one.addresses = texts_of(one.info.addresses)
        try:
            one.rtt_ms = 1000 * await host.pings.ping(peer, timeout_s=timeout_s)
            described = describe(peer, await host.identify.ask(peer))
            one.agent, one.addresses, one.protocols = (
                described["agent"], described["addresses"], described["protocols"],
            )  # fmt: skip
            await self._read_table(one)
        except QuiverError as error:
            one.error = str(error)

    async def _read_table(self, one: Seen) -> None:
        """Its own neighbourhood, then bucket after bucket from the widest."""
        await self._ask(one, one.info.peer_id)
        barren = 0
        for index in range(REFRESH_BITS):
            if barren == EMPTY_BUCKETS_MAX:
                return
            key = find_key_in_bucket(KEYS[one.info.peer_id], index, self._rng)
            barren = 0 if await self._ask(one, key) else barren + 1

    async def _ask(self, one: Seen, key: bytes) -> bool:
        """Whether it named somebody it had not named before."""
        question = KadMessage(type=KadType.FIND_NODE, key=key)
        answer = await self._session.membership.kad.rpc(
            one.info.peer_id, KAD, question, timeout_s=self._session.timeout_s
        )
        before = len(one.neighbours)
        for info in answer.closer:
            if info.peer_id not in (one.info.peer_id, self._session.host.peer_id):
                one.neighbours[info.peer_id] = None
                self._on_named(info)
        return len(one.neighbours) > before


async def crawl(session: Session, *, parallel: int, graph: Path | None) -> Report:
    """Walk, and say who was there."""
    if not session.known:
        raise UsageError("where to begin? Give --network network.toml, or --peer with the multiaddr of a node")
    if not 1 <= parallel <= PARALLEL_MAX:
        raise UsageError(f"--parallel {parallel}: 1 to {PARALLEL_MAX} peers at once")
    with tqdm(total=len(session.known), unit="peer", desc="crawl", leave=False, disable=None) as progress:
        walk = Crawl(session, parallel=parallel, progress=progress)
        await walk.run()
    everybody = list(walk.seen.values())
    if all(one.error for one in everybody):
        raise Unavailable(f"nobody answered: {'; '.join(one.error for one in everybody[:3])}")
    if graph is not None:
        _draw(everybody, graph)
    return Report(data=[one.plain() for one in everybody], text=render(everybody, graph))


def _draw(everybody: list[Seen], path: Path) -> None:
    from quiver.live.plot import draw_network

    answered = {one.info.peer_id for one in everybody if not one.error}
    draw_network(
        {short(one.info.peer_id): not one.error for one in everybody},
        [(short(one.info.peer_id), short(other)) for one in everybody for other in one.neighbours],
        path, title=f"DHT crawl: {len(answered)} of {len(everybody)} peers answered",
    )  # fmt: skip


def render(everybody: list[Seen], graph: Path | None) -> str:
    """The table for people; a peer that did not answer has the reason in it."""
    rows = [("peer", "agent", "rtt ms", "bucket:neighbours", "protocols", "addresses")]
    for one in everybody:
        peer = peer_id_text(one.info.peer_id)
        if one.error:
            rows.append((peer, "-", "-", "-", "-", one.error))
            continue
        more = len(one.protocols) - PROTOCOLS_SHOWN
        protocols = " ".join([*one.protocols[:PROTOCOLS_SHOWN], *([f"+{more}"] if more > 0 else [])])
        buckets = " ".join(f"{index}:{count}" for index, count in one.buckets().items())
        rows.append((peer, one.agent, f"{one.rtt_ms:.2f}", buckets or "none", protocols, " ".join(one.addresses)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    answered = sum(not one.error for one in everybody)
    lines.append(f"{answered} of {len(everybody)} peers answered")
    if graph is not None:
        lines.append(f"drawn in {graph}")
    return "\n".join(lines)
