"""The node's part in the DHT: finds peers, providers and values, keeps the table and the records fresh, answers others.

Rules of this file: the flows below hold no rule that `lookup`, `routing_table`, `record`, `value_store` or `answers` could
hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from quiver.dht.answers import Answers
from quiver.dht.disjoint import DisjointLookup
from quiver.dht.distance import KEYS, REFRESH_BITS, find_key_in_bucket
from quiver.dht.lookup import Lookup
from quiver.dht.record import RecordStore
from quiver.dht.routing_table import RoutingTable
from quiver.dht.search import Search
from quiver.dht.value_store import VALUE_REPUBLISH_S, Validator
from quiver.errors import PeerError, Unavailable, UsageError
from quiver.ids import PeerId
from quiver.runtime import Nursery, Runtime
from quiver.trace import LookupFinished
from quiver.values.kad import KadMessage, KadType, Record
from quiver.values.peer import PeerInfo
from quiver.wire.protocols import KAD

# Keys one node provides: one for each model it serves. Values it keeps in the network: as many.
PROVIDED_MAX = 1024
# Peers to start from that a node remembers, for the day its table is empty.
BOOTSTRAP_MAX = 64
# A lookup none of whose k starting points answered starts again from the next k, at most this often in all.
ROUNDS_MAX = 3
# Signs of life a node waits for at a time.
CHECKS_MAX = 8
# Records of our own that are renewed together: 1024 of them, a second each, take 128 of the 300 s until the next round.
ANNOUNCED_AT_ONCE = 8
# Peers that must name a value before it is believed to be the best there is.
QUORUM = 3
# A period is stretched or shortened by up to this part, so that nodes do not act in step.
JITTER = 0.25

NO_VALIDATORS: Mapping[str, Validator] = MappingProxyType({})
OnAnswer = Callable[[PeerInfo, KadMessage], bool]


class DhtService:
    """One node of the DHT. A server answers `KAD` rpcs from the moment it is made; a client asks and never answers."""

    __slots__ = (
        "table", "records", "_runtime", "_answers", "_peer_id", "_provided", "_values", "_bootstrap", "_nursery", "_checking",
        "_introduction",
    )  # fmt: skip

    def __init__(
        self, runtime: Runtime, *, server: bool = True, validators: Mapping[str, Validator] = NO_VALIDATORS
    ) -> None:
        """`validators`: of each namespace whose values this node puts, gets and holds; values of others are refused."""
        self._runtime = runtime
        self._answers = answers = Answers(runtime, validators, self._on_doubt)
        self.table: RoutingTable = answers.table
        self.records: RecordStore = answers.records
        self._peer_id = answers.me.peer_id
        self._provided: dict[bytes, None] = {}
        self._values: dict[bytes, tuple[float, bytes]] = {}
        "What we put: when last, and what."
        self._bootstrap: tuple[PeerInfo, ...] = ()
        self._nursery: Nursery | None = None
        self._checking: set[PeerId] = set()
        self._introduction = (answers.me,) if server else ()
        "What our questions say about us: a client is in nobody's table."
        if server:
            runtime.transport.answer(KAD, answers.on_question)

    @property
    def me(self) -> PeerInfo:
        """This node as others know it."""
        return self._answers.me

    def observe(self, info: PeerInfo) -> None:
        """A peer we are connected to is a server of `KAD` and has these addresses (identify says so)."""
        self._answers.observe(info)

    def on_question(self, peer: PeerId, message: KadMessage) -> KadMessage:
        """The answer to one rpc; `PeerError` for what we do not serve."""
        return self._answers.on_question(peer, message)

    # ---- finding

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
        self.records.add(key, self.me, self._runtime.clock.now())
        nearest = (await self._search(KadType.FIND_NODE, key)).replicas
        return await self._store(nearest, KadMessage(type=KadType.ADD_PROVIDER, key=key, providers=(self.me,)))

    async def _store(self, peers: Sequence[PeerInfo], message: KadMessage) -> int:
        """How many of `peers` took it."""
        return sum(await asyncio.gather(*[self._tell(info.peer_id, message) for info in peers]))

    async def _tell(self, peer: PeerId, message: KadMessage) -> bool:
        """Whether `peer` answered."""
        try:
            await self._runtime.transport.rpc(peer, KAD, message, timeout_s=self._runtime.params.rpc_timeout_s)
        except (Unavailable, PeerError):
            return False
        return True

    async def find_providers(self, key: bytes) -> list[PeerInfo]:
        """Who provides `key`, at most `candidates_max`, in order of discovery; our own records come first."""
        params, transport = self._runtime.params, self._runtime.transport
        found: dict[PeerId, PeerInfo] = {}

        def on_answer(_: PeerInfo, answer: KadMessage) -> bool:
            for info in answer.providers[: params.provider_peers_max]:
                if len(found) < params.candidates_max and info.peer_id not in found:
                    found[info.peer_id] = info
                    if info.addresses:
                        transport.learn(info)
            return len(found) >= params.candidates_max

        held = self.records.providers(key, self._runtime.clock.now(), self._runtime.rng)
        if not on_answer(self.me, KadMessage(type=KadType.GET_PROVIDERS, key=key, providers=tuple(held))):
            await self._search(KadType.GET_PROVIDERS, key, on_answer=on_answer, is_found=lambda: bool(found))
        return list(found.values())

    async def put_value(self, key: bytes, value: bytes) -> int:
        """Store a value now and every 22 h until `drop_value`; returns how many peers hold it. `UsageError` if it is not valid."""
        try:
            self._answers.values.check(key, value)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if key not in self._values and len(self._values) >= PROVIDED_MAX:
            raise UsageError(f"a node keeps at most {PROVIDED_MAX} values in the network; drop one first")
        return await self._put(key, value)

    def drop_value(self, key: bytes) -> None:
        """Put it no more; elsewhere it ends 48 h after it was last put."""
        self._values.pop(key, None)

    async def _put(self, key: bytes, value: bytes) -> int:
        now, record = self._runtime.clock.now(), Record(key=key, value=value)
        self._values[key] = (now, value)
        self._answers.values.put(record, now)
        nearest = (await self._search(KadType.FIND_NODE, key)).replicas
        return await self._store(nearest, KadMessage(type=KadType.PUT_VALUE, key=key, record=record))

    async def get_value(self, key: bytes, *, quorum: int = QUORUM) -> bytes | None:
        """The best value that was found once `quorum` peers named one; None if nobody did. `UsageError`: unknown namespace.

        Peers near the key that hold a worse one, or none, are given the best (libp2p kad-dht, entry correction).
        """
        values, now = self._answers.values, self._runtime.clock.now()
        try:
            values.check_key(key)
        except ValueError as error:
            raise UsageError(str(error)) from error
        held = values.get(key, now)
        named: dict[PeerId, bytes] = {} if held is None else {self._peer_id: held.value}

        def on_answer(info: PeerInfo, answer: KadMessage) -> bool:
            record = answer.record
            if record is not None and record.key == key:
                try:
                    values.check(key, record.value)
                except ValueError:
                    return False
                named[info.peer_id] = record.value
            return len(named) >= quorum

        lookup = await self._search(KadType.GET_VALUE, key, on_answer=on_answer, is_found=lambda: bool(named))
        if not named:
            return None
        best = values.select(key, list(named.values()))
        behind = [info for info in lookup.replicas if named.get(info.peer_id) != best]
        await self._store(behind, KadMessage(type=KadType.PUT_VALUE, key=key, record=Record(key=key, value=best)))
        return best

    async def _search(
        self,
        kind: KadType,
        key: bytes,
        *,
        known: Sequence[PeerInfo] = (),
        width: int | None = None,
        on_answer: OnAnswer | None = None,
        is_found: Callable[[], bool] | None = None,
    ) -> Lookup | DisjointLookup:
        runtime = self._runtime
        target = KEYS[key]
        self.table.on_lookup(target, runtime.clock.now())
        question = KadMessage(type=kind, key=key, providers=self._introduction)
        lookup: Lookup | DisjointLookup
        for _ in range(ROUNDS_MAX):
            start = [*self.table.closest(target, runtime.params.k), *known]
            # What keeps the table fresh asks for no record that a liar could withhold: one path is enough.
            if runtime.params.disjoint_paths > 1 and width is None and key != self._peer_id:
                lookup = DisjointLookup(target, start, own=self._peer_id, params=runtime.params)
            else:
                lookup = Lookup(target, start, own=self._peer_id, params=runtime.params, width=width)
            await Search(runtime, self.table, lookup, question, self._on_doubt, on_answer).run()
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

    def _on_doubt(self, info: PeerInfo) -> None:
        """Ask a peer for a sign of life; while `run` does not run, nobody waits for one."""
        if self._nursery is not None and len(self._checking) < CHECKS_MAX and info.peer_id not in self._checking:
            self._checking.add(info.peer_id)
            self._nursery.start(self._check(info))

    async def _check(self, info: PeerInfo) -> None:
        # Not PING, which libp2p has deprecated; and our own neighbourhood is always worth asking for.
        try:
            await self._ask(info)
        finally:
            self._checking.discard(info.peer_id)

    async def _ask(self, info: PeerInfo) -> list[PeerInfo]:
        """Ask one peer who is near us: the table learns whether it lives. Returns it and whom it named; nobody if it is silent."""
        runtime = self._runtime
        if info.addresses:
            runtime.transport.learn(info)
        question = KadMessage(type=KadType.FIND_NODE, key=self._peer_id, providers=self._introduction)
        try:
            answer = await runtime.transport.rpc(info.peer_id, KAD, question, timeout_s=runtime.params.rpc_timeout_s)
        except (Unavailable, PeerError):
            self.table.on_failed(info.peer_id)
            return []
        self.table.on_seen(info, runtime.clock.now())
        return [info, *answer.closer[: runtime.params.k]]

    async def run(self) -> None:
        """Refresh, republish and check who lives, until cancelled."""
        async with Nursery() as nursery:
            self._nursery = nursery
            try:
                nursery.start(self._refresh_loop())
                await self._republish_loop()
            finally:
                self._nursery = None

    async def _pause(self, period_s: float) -> None:
        await self._runtime.clock.sleep(period_s * self._runtime.rng.uniform(1 - JITTER, 1 + JITTER))

    async def _refresh_loop(self) -> None:
        clock, params = self._runtime.clock, self._runtime.params
        while True:
            await self._pause(params.bucket_refresh_s)
            self.records.expire(clock.now())
            self._answers.values.expire(clock.now())
            await self._search(KadType.FIND_NODE, self._peer_id, known=await self._ask_bootstrap())
            for index in self.table.stale(clock.now(), params.bucket_refresh_s):
                await self._refresh(index)

    async def _ask_bootstrap(self) -> Sequence[PeerInfo]:
        """Peers to meet again: with an empty table all we joined through, else those whom one lost one of them knows near us.

        After a partition nobody on one side knows anybody on the other: this is how the two sides meet.
        """
        if not len(self.table):
            return self._bootstrap
        lost = [info for info in self._bootstrap if info.peer_id not in self.table]
        return await self._ask(self._runtime.rng.choice(lost)) if lost else ()

    async def _republish_loop(self) -> None:
        clock = self._runtime.clock
        began_s = clock.now()
        while True:
            # From one start to the next: a node that announces slowly must not let its leases run out meanwhile.
            await self._pause(max(0.0, began_s + self._runtime.params.republish_s - clock.now()))
            began_s = clock.now()
            keys = list(self._provided)
            for at in range(0, len(keys), ANNOUNCED_AT_ONCE):
                some = [key for key in keys[at : at + ANNOUNCED_AT_ONCE] if key in self._provided]
                await asyncio.gather(*[self._announce(key) for key in some])
            for key, (put_s, value) in list(self._values.items()):
                if self._runtime.clock.now() >= put_s + VALUE_REPUBLISH_S and key in self._values:
                    await self._put(key, value)
