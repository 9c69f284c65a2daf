"""The node's part in the DHT: answers others, finds peers and providers, keeps the table and the records fresh.

Rules of this file: answering is a plain function; the flows below hold no rule that `lookup`, `routing_table` or
`record` could hold. In a question, `providers` carries the asker's own addresses (if it has any), so that a newcomer
can be found by others without a further protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from quiver.dht.distance import KEYS, REFRESH_BITS, find_key_in_bucket
from quiver.dht.lookup import Lookup
from quiver.dht.record import RecordStore
from quiver.dht.routing_table import RoutingTable
from quiver.dht.search import Search
from quiver.errors import MalformedMessage, PeerError, Unavailable, UsageError, WireCode
from quiver.ids import PeerId
from quiver.runtime import Nursery, Runtime
from quiver.trace import LookupFinished
from quiver.values.kad import KadMessage, KadType
from quiver.values.peer import PeerInfo
from quiver.wire.protocols import KAD

# A key is a peer id or a multihash; go-libp2p takes at most 80 bytes.
KEY_BYTES_MAX = 80
# Keys one node provides: one for each model it serves.
PROVIDED_MAX = 1024
# Peers to start from that a node remembers, for the day its table is empty.
BOOTSTRAP_MAX = 64
# A lookup none of whose k starting points answered starts again from the next k, at most this often in all.
ROUNDS_MAX = 3
# A period is stretched or shortened by up to this part, so that nodes do not act in step.
JITTER = 0.25


class AddresslessPeers(dict[PeerId, PeerInfo]):
    """One shared `PeerInfo` for each peer id known without addresses. A bounded memo: beyond the limit all are forgotten."""

    PEERS_MAX = 1 << 16

    def __missing__(self, peer_id: PeerId) -> PeerInfo:
        if len(self) >= self.PEERS_MAX:
            self.clear()
        info = self[peer_id] = PeerInfo(peer_id=peer_id)
        return info


ADDRESSLESS = AddresslessPeers()


class DhtService:
    """One node of the DHT, in server mode: it answers `KAD` rpcs from the moment it is made."""

    __slots__ = ("table", "records", "_runtime", "_me", "_peer_id", "_has_addresses", "_provided", "_bootstrap")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._peer_id = runtime.transport.peer_id
        me = runtime.transport.local_info()
        self._has_addresses = bool(me.addresses)
        self._me = me if self._has_addresses else ADDRESSLESS[self._peer_id]
        self.table = RoutingTable(self._peer_id, runtime.params.k)
        self.records = RecordStore(runtime.params)
        self._provided: dict[bytes, None] = {}
        self._bootstrap: tuple[PeerInfo, ...] = ()
        runtime.transport.answer(KAD, self.on_question)

    # ---- answering

    def on_question(self, peer: PeerId, message: KadMessage) -> KadMessage:
        """Answer one rpc. The asker joins our table; `PeerError` for what we do not serve."""
        kind, key = message.type, message.key
        if not 0 < len(key) <= KEY_BYTES_MAX and kind is not KadType.PING:
            raise MalformedMessage(
                f"a {kind.name} key of {len(key)} bytes; 1 to {KEY_BYTES_MAX} are read", peer_id=peer
            )
        if kind is KadType.FIND_NODE:
            self._on_asker(peer, message.providers)
            return KadMessage(type=kind, key=key, closer=self._closer(peer, key))
        now = self._runtime.clock.now()
        if kind is KadType.GET_PROVIDERS:
            self._on_asker(peer, message.providers)
            providers = self.records.providers(key, now, self._runtime.rng)
            return KadMessage(type=kind, key=key, closer=self._closer(peer, key), providers=tuple(providers))
        if kind is KadType.ADD_PROVIDER:
            return self._on_add_provider(peer, message, now)
        if kind is KadType.PING:
            return message
        raise PeerError(f"{kind.name} is not served: this network stores provider records only", peer_id=peer)

    def _on_asker(self, peer: PeerId, offered: Sequence[PeerInfo]) -> None:
        """The asker is alive. Where nodes have addresses, it joins only with some: others could not dial it."""
        if not self._has_addresses:
            self.table.on_seen(ADDRESSLESS[peer])
            return
        for info in offered:
            if info.peer_id == peer and info.addresses:
                self.observe(info)
                return

    def observe(self, info: PeerInfo) -> None:
        """A peer we are connected to speaks `KAD` and has these addresses (identify says so)."""
        self._runtime.transport.learn(info)
        self.table.on_seen(info)

    def _closer(self, peer: PeerId, key: bytes) -> tuple[PeerInfo, ...]:
        """Our k nearest to `key`, ourselves if we are the key, never the asker unless it is."""
        nearest = self.table.closest(KEYS[key], self._runtime.params.k)
        if key == self._peer_id:
            nearest = [self._me, *nearest[: self._runtime.params.k - 1]]
        if key != peer:
            nearest = [info for info in nearest if info.peer_id != peer]
        return tuple(nearest)

    def _on_add_provider(self, peer: PeerId, message: KadMessage, now: float) -> KadMessage:
        for info in message.providers:
            # Nobody may speak for another peer (libp2p kad-dht, ADD_PROVIDER).
            if info.peer_id == peer and (info.addresses or not self._has_addresses):
                shared = info if info.addresses else ADDRESSLESS[peer]
                self.observe(shared)
                if not self.records.add(message.key, shared, now):
                    raise PeerError(
                        "no room for another provider record", peer_id=peer, wire_code=WireCode.RESOURCE_LIMIT
                    )
                return KadMessage(type=KadType.ADD_PROVIDER, key=message.key)
        raise PeerError("ADD_PROVIDER names no provider that is its sender, with addresses", peer_id=peer)

    # ---- asking

    async def bootstrap(self, peers: Sequence[PeerInfo]) -> None:
        """Join: look ourselves up through `peers`, then look into the buckets that stayed empty.

        Raises `Unavailable` when peers were named and none of them answered.
        """
        others = [info for info in peers if info.peer_id != self._peer_id]
        self._bootstrap = tuple(others[:BOOTSTRAP_MAX])
        lookup = await self._search(KadType.FIND_NODE, self._peer_id, known=others)
        if others and not lookup.result:
            raise Unavailable(
                f"none of {len(others)} bootstrap peers answered; check their addresses, and that they run",
                retry_after_s=30.0,
            )
        for index in self.table.empty():
            await self._refresh(index)

    async def find_node(self, key: bytes) -> list[PeerInfo]:
        """The k nearest live peers to `key`, nearest first; at once when the peer whose id is `key` answers (it is then first)."""
        return (await self._search(KadType.FIND_NODE, key)).result

    async def provide(self, key: bytes) -> int:
        """Announce ourselves under `key`, now and in each republish, until `withdraw`; returns how many peers hold the record."""
        if key not in self._provided and len(self._provided) >= PROVIDED_MAX:
            raise UsageError(f"a node provides at most {PROVIDED_MAX} keys; withdraw one first")
        self._provided[key] = None
        return await self._announce(key)

    def withdraw(self, key: bytes) -> None:
        """Announce `key` no longer; records elsewhere end with their lease."""
        self._provided.pop(key, None)
        self.records.remove(key, self._peer_id)

    async def _announce(self, key: bytes) -> int:
        # Whoever asks us must find us as well, even where we are the only node.
        self.records.add(key, self._me, self._runtime.clock.now())
        nearest = (await self._search(KadType.FIND_NODE, key)).result
        message = KadMessage(type=KadType.ADD_PROVIDER, key=key, providers=(self._me,))
        stored = await asyncio.gather(*[self._store(info.peer_id, message) for info in nearest])
        return sum(stored)

    async def _store(self, peer: PeerId, message: KadMessage) -> bool:
        try:
            await self._runtime.transport.rpc(peer, KAD, message, timeout_s=self._runtime.params.rpc_timeout_s)
        except (Unavailable, PeerError):
            return False
        return True

    async def find_providers(self, key: bytes) -> list[PeerInfo]:
        """Who provides `key`, at most `candidates_max`, in order of discovery; our own records come first."""
        params, transport = self._runtime.params, self._runtime.transport
        found: dict[PeerId, PeerInfo] = {}

        def on_answer(answer: KadMessage) -> bool:
            for info in answer.providers[: params.provider_peers_max]:
                if len(found) < params.candidates_max and info.peer_id not in found:
                    found[info.peer_id] = info
                    if info.addresses:
                        transport.learn(info)
            return len(found) >= params.candidates_max

        held = self.records.providers(key, self._runtime.clock.now(), self._runtime.rng)
        if not on_answer(KadMessage(type=KadType.GET_PROVIDERS, key=key, providers=tuple(held))):
            await self._search(KadType.GET_PROVIDERS, key, on_answer=on_answer, is_found=lambda: bool(found))
        return list(found.values())

    async def _search(
        self,
        kind: KadType,
        key: bytes,
        *,
        known: Sequence[PeerInfo] = (),
        width: int | None = None,
        on_answer: Callable[[KadMessage], bool] | None = None,
        is_found: Callable[[], bool] | None = None,
    ) -> Lookup:
        runtime = self._runtime
        target = KEYS[key]
        self.table.on_lookup(target, runtime.clock.now())
        question = KadMessage(type=kind, key=key, providers=(self._me,) if self._has_addresses else ())
        for _ in range(ROUNDS_MAX):
            start = [*self.table.closest(target, runtime.params.k), *known]
            lookup = Lookup(target, start, own=self._peer_id, params=runtime.params, width=width)
            await Search(runtime, self.table, lookup, question, on_answer).run()
            # The silent ones have left the table, so another round starts from others.
            if lookup.result or not len(self.table):
                break
        found = lookup.found if is_found is None else is_found()
        runtime.trace.emit(
            LookupFinished(
                at_s=runtime.clock.now(), node=self._peer_id, key=key, found=found, asked=lookup.asked, hops=lookup.hops
            )
        )
        return lookup

    # ---- keeping fresh

    async def _refresh(self, index: int) -> None:
        """Look up a random key of one bucket's range; the `beta` nearest are enough to fill it."""
        if index < REFRESH_BITS:
            key = find_key_in_bucket(self.table.own_key, index, self._runtime.rng)
            await self._search(KadType.FIND_NODE, key, width=self._runtime.params.beta)

    async def run(self) -> None:
        """Refresh and republish until cancelled."""
        async with Nursery() as nursery:
            nursery.start(self._refresh_loop())
            nursery.start(self._republish_loop())

    async def _pause(self, period_s: float) -> None:
        await self._runtime.clock.sleep(period_s * self._runtime.rng.uniform(1 - JITTER, 1 + JITTER))

    async def _refresh_loop(self) -> None:
        clock, params = self._runtime.clock, self._runtime.params
        while True:
            await self._pause(params.bucket_refresh_s)
            self.records.expire(clock.now())
            # With an empty table we were cut off from the network: the peers we joined through are the way back.
            known = () if len(self.table) else self._bootstrap
            await self._search(KadType.FIND_NODE, self._peer_id, known=known)
            for index in self.table.stale(clock.now(), params.bucket_refresh_s):
                await self._refresh(index)

    async def _republish_loop(self) -> None:
        while True:
            await self._pause(self._runtime.params.republish_s)
            for key in list(self._provided):
                await self._announce(key)
