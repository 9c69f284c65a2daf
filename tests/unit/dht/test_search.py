"""Carrying out a lookup: with calls or with tasks, and on a machine that is too busy to keep its deadlines."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from quiver.dht.distance import KEYS
from quiver.dht.lookup import Lookup
from quiver.dht.routing_table import RoutingTable
from quiver.dht.search import Search
from quiver.params import Params
from quiver.values.kad import KadMessage, KadType
from tests.unit.dht.world import World, peer


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


class TaskTransport:
    """A simulated transport that can only be awaited, as live ones."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        if name == "ask":
            raise AttributeError(name)
        return getattr(self._inner, name)


class TaskWorld(World):
    """Nodes whose questions are tasks."""

    def add(self, **options):
        node = self.network.node
        self.network.node = lambda peer_id: TaskTransport(node(peer_id))
        try:
            return super().add(**options)
        finally:
            self.network.node = node


@pytest.fixture(params=[World, TaskWorld], ids=["calls", "tasks"])
def world(request):
    return request.param(6)


def _found(world):
    async def story():
        await world.join_all()
        for down in (2, 4):
            world.transports[down].crash()
        return [await service.find_node(b"key") for service in world.services[:2]]

    return world.run(story)


def test_questions_that_are_calls_and_questions_that_are_tasks_give_one_trace():
    calls, tasks = World(6), TaskWorld(6)
    assert hasattr(calls.transports[0], "ask") and not hasattr(tasks.transports[0], "ask")
    assert _found(calls) == _found(tasks)
    assert calls.trace.digest() == tasks.trace.digest()


def test_an_error_of_whoever_sees_the_answers_is_the_searchs_error(world):
    def on_answer(info, answer):
        raise ZeroDivisionError("seen")

    async def story():
        await world.join_all()
        with pytest.raises(ZeroDivisionError, match="seen"):
            await world.services[0]._search(KadType.FIND_NODE, b"key", on_answer=on_answer)

    world.run(story)


def test_a_search_that_was_cancelled_hears_of_nothing(world):
    async def story():
        await world.join_all()
        service = world.services[0]
        task = asyncio.get_running_loop().create_task(service.find_node(b"key"))
        await world.clock.sleep(0.001)
        known = list(service.table)
        for other in world.transports[1:]:
            other.crash()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await world.clock.sleep(2 * world.params.rpc_timeout_s)
        # Had it heard of the silence, the silent would have left the table.
        assert known and list(service.table) == known

    world.run(story)
