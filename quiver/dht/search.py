"""Carries out a `Lookup`: asks whom it names, and tells it what came back.

At most `alpha` tasks a lookup, each asking one peer after the other: a task per question would cost more than the
question. Rules of this file: no decision about whom to ask or when to stop; that is `Lookup`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quiver.dht.lookup import Lookup
from quiver.dht.routing_table import RoutingTable
from quiver.errors import PeerError, Unavailable
from quiver.ids import PeerId
from quiver.runtime import Nursery, Runtime
from quiver.values.kad import KadMessage
from quiver.wire.protocols import KAD


class Search:
    """One running lookup. `on_answer` sees each answer and returns True when it has enough."""

    __slots__ = ("_runtime", "_table", "_lookup", "_question", "_on_answer", "_nursery", "_finished")

    def __init__(
        self,
        runtime: Runtime,
        table: RoutingTable,
        lookup: Lookup,
        question: KadMessage,
        on_answer: Callable[[KadMessage], bool] | None = None,
    ) -> None:
        self._runtime = runtime
        self._table = table
        self._lookup = lookup
        self._question = question
        self._on_answer = on_answer

    async def run(self) -> None:
        """Return when the lookup is done; questions still open are abandoned."""
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with Nursery() as self._nursery:
            if self._ask_more():
                await self._finished
                self._nursery.cancel()

    def _ask_more(self) -> bool:
        """Start a task for each peer the lookup names now."""
        now, started = self._runtime.clock.now(), False
        while (peer := self._lookup.next(now)) is not None:
            self._nursery.start(self._ask(peer))
            started = True
        return started

    async def _ask(self, peer: PeerId | None) -> None:
        lookup, table, question = self._lookup, self._table, self._question
        transport, clock = self._runtime.transport, self._runtime.clock
        timeout_s = self._runtime.params.rpc_timeout_s
        while peer is not None:
            info = lookup.info(peer)
            if info.addresses:
                transport.learn(info)
            try:
                answer = await transport.rpc(peer, KAD, question, timeout_s=timeout_s)
            except (Unavailable, PeerError):
                table.on_failed(peer)
                lookup.on_failure(peer, clock.now())
            else:
                table.on_seen(info)
                lookup.on_success(peer, answer.closer, clock.now())
                if self._on_answer is not None and self._on_answer(answer):
                    break
            peer = lookup.next(clock.now())
            if peer is not None:
                self._ask_more()
            elif not lookup.done:
                return
        if not self._finished.done():
            self._finished.set_result(None)
