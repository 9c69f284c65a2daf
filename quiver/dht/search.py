"""Carries out a `Lookup`: asks whom it names, and tells it what came back.

At most `alpha` tasks a lookup, each asking one peer after the other: a task per question would cost more than the
question. Rules of this file: no decision about whom to ask or when to stop; that is `Lookup`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quiver.dht.disjoint import DisjointLookup
from quiver.dht.lookup import Lookup
from quiver.dht.routing_table import RoutingTable
from quiver.errors import PeerError, Unavailable
from quiver.ids import PeerId
from quiver.runtime import Runtime
from quiver.values.kad import KadMessage
from quiver.values.peer import PeerInfo
from quiver.wire.protocols import KAD


class Search:
    """One running lookup. `on_answer` sees each answer and returns True when it has enough.

    `on_doubt` hears of peers that were silent for long while the lookup's peers wait for their place in the table.
    """

    __slots__ = ("_runtime", "_table", "_lookup", "_question", "_on_doubt", "_on_answer", "_tasks", "_finished")

    def __init__(
        self,
        runtime: Runtime,
        table: RoutingTable,
        lookup: Lookup | DisjointLookup,
        question: KadMessage,
        on_doubt: Callable[[PeerInfo], None],
        on_answer: Callable[[PeerInfo, KadMessage], bool] | None = None,
    ) -> None:
        self._runtime = runtime
        self._table = table
        self._lookup = lookup
        self._question = question
        self._on_doubt = on_doubt
        self._on_answer = on_answer
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Return when the lookup is done. Questions still open then run out on their own: they tell the table who is alive."""
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._ask_more():
            return
        try:
            await self._finished
        except BaseException:
            for task in self._tasks:
                task.cancel()
            raise
        finally:
            self._tasks = []

    def _ask_more(self) -> bool:
        """Start a task for each peer the lookup names now."""
        lookup, now = self._lookup, self._runtime.clock.now()
        started = False
        while (peer := lookup.next(now)) is not None:
            task = asyncio.get_running_loop().create_task(self._work(lookup.info(peer)))
            self._tasks = [*[other for other in self._tasks if not other.done()], task]
            started = True
        return started

    async def _work(self, first: PeerInfo) -> None:
        """Ask until there is nobody to ask for this task; whoever finds the lookup done says so."""
        try:
            await self._ask(first)
        except Exception as error:
            if self._finished.done():
                raise
            self._finished.set_exception(error)

    async def _ask(self, info: PeerInfo) -> None:
        lookup, table, question = self._lookup, self._table, self._question
        rpc, now = self._runtime.transport.rpc, self._runtime.clock.now
        timeout_s = self._runtime.params.rpc_timeout_s
        # Who it is comes with the task: on a busy machine the question may expire before the task has its first turn.
        peer: PeerId | None = info.peer_id
        while peer is not None:
            if info.addresses:
                self._runtime.transport.learn(info)
            try:
                answer = await rpc(peer, KAD, question, timeout_s=timeout_s)
            except (Unavailable, PeerError):
                table.on_failed(peer)
                if self._finished.done():
                    return
                time_s = now()
                lookup.on_failure(peer, time_s)
            else:
                time_s = now()
                doubtful = table.on_seen(info, time_s)
                if doubtful is not None:
                    self._on_doubt(doubtful)
                if self._finished.done():
                    return
                lookup.on_success(peer, answer.closer, time_s)
                if self._on_answer is not None and self._on_answer(info, answer):
                    lookup.stop()
            peer = lookup.next(time_s)
            if peer is not None:
                info = lookup.info(peer)
                if lookup.idle:
                    self._ask_more()
        if lookup.done and not self._finished.done():
            self._finished.set_result(None)
