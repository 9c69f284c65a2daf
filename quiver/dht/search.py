"""Carries out a `Lookup`: asks whom it names, and tells it what came back.

Each question ends in one plain call. Where the transport can make that call itself (`CallingTransport`, as the simulated one), a question
costs no task; elsewhere a task asks and then calls.
Rules of this file: no decision about whom to ask or when to stop; that is `Lookup`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from quiver.dht.disjoint import DisjointLookup
from quiver.dht.lookup import Lookup
from quiver.dht.routing_table import RoutingTable
from quiver.errors import PeerError, Unavailable
from quiver.ids import PeerId
from quiver.ports import CallingTransport, OnEnd, ProtocolSpec
from quiver.runtime import Runtime
from quiver.values.kad import KadMessage
from quiver.values.peer import PeerInfo
from quiver.wire.protocols import KAD


class Search:
    """One running lookup. `on_answer` sees each answer and returns True when it has enough.

    `on_doubt` hears of peers that were silent for long while the lookup's peers wait for their place in the table.
    """

    __slots__ = ("_runtime", "_table", "_lookup", "_question", "_on_doubt", "_on_answer", "_ask", "_tasks", "_finished")

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
        transport = runtime.transport
        self._ask = transport.ask if isinstance(transport, CallingTransport) else None
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def run(self) -> None:
        """Return when the lookup is done. Questions still open then run out on their own: they tell the table who is alive."""
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._go_on(self._runtime.clock.now())
        try:
            await self._finished
        except BaseException:
            for task in list(self._tasks):
                task.cancel()
            raise

    def _go_on(self, now: float) -> None:
        """Ask whom the lookup names now; if it is done, say so."""
        lookup, transport = self._lookup, self._runtime.transport
        ask, timeout_s = self._ask or self._ask_in_task, self._runtime.params.rpc_timeout_s
        asked = False
        while (peer := lookup.next(now)) is not None:
            # Who it is stays with the question: on a busy machine the lookup may give it up before it has left.
            info = lookup.info(peer)
            if info.addresses:
                transport.learn(info)
            try:
                ask(peer, KAD, self._question, timeout_s=timeout_s, on_end=self._on_end, about=info)
                asked = True
            except (Unavailable, PeerError):
                self._table.on_failed(peer)
                lookup.on_failure(peer, now)
        # Whoever was asked just now could still change the result.
        if not asked and lookup.done and not self._finished.done():
            self._finished.set_result(None)

    def _ask_in_task(
        self,
        peer: PeerId,
        protocol: ProtocolSpec,
        question: Any,
        *,
        timeout_s: float,
        on_end: OnEnd,
        about: Any = None,
    ) -> None:
        async def ask() -> None:
            try:
                answer = await self._runtime.transport.rpc(peer, protocol, question, timeout_s=timeout_s)
            except Exception as error:
                on_end(about, None, error)
            else:
                on_end(about, answer, None)

        task = asyncio.get_running_loop().create_task(ask())
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def _on_end(self, info: PeerInfo, answer: KadMessage | None, error: Exception | None) -> None:
        """A question ended. What goes wrong here is the search's failure, as long as somebody waits for it."""
        if self._finished.cancelled():
            return
        try:
            if answer is not None:
                self._on_success(info, answer)
            elif isinstance(error, Unavailable | PeerError):
                self._on_failure(info.peer_id)
            elif error is not None:
                raise error
        except Exception as failure:
            if self._finished.done():
                raise
            self._finished.set_exception(failure)

    def _on_success(self, info: PeerInfo, answer: KadMessage) -> None:
        now = self._runtime.clock.now()
        doubtful = self._table.on_seen(info, now)
        if doubtful is not None:
            self._on_doubt(doubtful)
        if not self._finished.done():
            lookup = self._lookup
            lookup.on_success(info.peer_id, answer.closer, now)
            if self._on_answer is not None and self._on_answer(info, answer):
                lookup.stop()
            self._go_on(now)

    def _on_failure(self, peer: PeerId) -> None:
        self._table.on_failed(peer)
        if not self._finished.done():
            now = self._runtime.clock.now()
            self._lookup.on_failure(peer, now)
            self._go_on(now)
