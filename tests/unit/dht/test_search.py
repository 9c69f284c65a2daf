"""Carrying out a lookup on a machine that is too busy to keep its deadlines."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from quiver.dht.distance import KEYS
from quiver.dht.lookup import Lookup
from quiver.dht.routing_table import RoutingTable
from quiver.dht.search import Search
from quiver.params import Params
from quiver.values.kad import KadMessage, KadType
from tests.unit.dht.world import peer


def test_a_question_may_expire_before_its_task_has_had_a_turn():
    params = Params(k=8, alpha=3, rpc_timeout_s=1.0)
    time_s = [0.0]
    asked = []

    async def rpc(peer_id, protocol, message, *, timeout_s):
        asked.append(peer_id)
        # The first answer takes the whole machine for two seconds: the other questions are over before they were sent.
        time_s[0] += 2.0 if len(asked) == 1 else 0.0
        return KadMessage(type=KadType.FIND_NODE)

    runtime = SimpleNamespace(
        clock=SimpleNamespace(now=lambda: time_s[0]), transport=SimpleNamespace(rpc=rpc), params=params
    )  # fmt: skip
    own, known = peer(0).peer_id, [peer(number) for number in range(1, 9)]
    lookup = Lookup(KEYS[own], known, own=own, params=params)
    table = RoutingTable(own, params.k)
    question = KadMessage(type=KadType.FIND_NODE, key=own)

    async def main():
        async with asyncio.timeout(5):
            await Search(runtime, table, lookup, question, lambda info: None).run()

    asyncio.run(main())
    assert set(asked) == {info.peer_id for info in known}
