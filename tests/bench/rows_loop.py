"""Request and reply on our loop against SimPy processes: 1,000 clients, a server each, 10 ms each way.

Both use the cheapest idiom of their own: SimPy delays a message with a timeout's callback and waits on a Store and an
event; ours delays it with `deliver_at`, as the simulated transport does, and bounds a wait with `quiver.runtime.Deadline`,
as the roles do. Both stop when the last client is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import simpy

from quiver.runtime import Deadline, Nursery
from sim.loop import Environment, SimLoop
from tests.bench.measure import interleave, mean
from tests.bench.report import Goal, Row

CLIENTS, REQUESTS, DELAY_S, TIMEOUT_S = 1000, 100, 0.01, 5.0


def _simpy_server(env: simpy.Environment, inbox: simpy.Store) -> Iterator[Any]:
    while True:
        reply = yield inbox.get()
        env.timeout(DELAY_S).callbacks.append(lambda _, reply=reply: reply.succeed())


def _simpy_client(env: simpy.Environment, inbox: simpy.Store, timeout_s: float | None) -> Iterator[Any]:
    for _ in range(REQUESTS):
        reply = env.event()
        env.timeout(DELAY_S).callbacks.append(lambda _, reply=reply: inbox.put(reply))
        if timeout_s is None:
            yield reply
        else:
            yield reply | env.timeout(timeout_s)
            assert reply.triggered


def run_simpy(clients: int, timeout_s: float | None) -> None:
    """Plain SimPy."""
    env = simpy.Environment()
    processes = []
    for _ in range(clients):
        inbox = simpy.Store(env)
        env.process(_simpy_server(env, inbox))
        processes.append(env.process(_simpy_client(env, inbox, timeout_s)))
    env.run(until=env.all_of(processes))


def _reply(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _server(loop: SimLoop, inbox: asyncio.Queue[asyncio.Future[None]]) -> None:
    while True:
        loop.deliver_at(loop.time() + DELAY_S, _reply, await inbox.get())


async def _client(loop: SimLoop, inbox: asyncio.Queue[asyncio.Future[None]], timeout_s: float | None) -> None:
    for _ in range(REQUESTS):
        future = loop.create_future()
        loop.deliver_at(loop.time() + DELAY_S, inbox.put_nowait, future)
        if timeout_s is None:
            await future
        else:
            async with Deadline(timeout_s):
                await future


async def _story(loop: SimLoop, clients: int, timeout_s: float | None) -> None:
    async with Nursery() as servers:
        inboxes: list[asyncio.Queue[asyncio.Future[None]]] = [asyncio.Queue() for _ in range(clients)]
        for inbox in inboxes:
            servers.start(_server(loop, inbox))
        async with Nursery() as nursery:
            for inbox in inboxes:
                nursery.start(_client(loop, inbox, timeout_s))
        servers.cancel()


def run_ours(clients: int, timeout_s: float | None) -> None:
    """Coroutines on our loop."""
    env = Environment()
    env.run_coroutine(_story(env.loop, clients, timeout_s))


def rows(*, quick: bool, command: str) -> list[Row]:
    """With a timeout armed on each request, and without."""
    clients, repetitions = (100, 5) if quick else (CLIENTS, 6)
    found = []
    for timeout_s, goal in ((TIMEOUT_S, Goal(value=1.5, floor=1.2)), (None, Goal(value=1.0))):
        ours, peer = interleave(
            partial(run_ours, clients, timeout_s), partial(run_simpy, clients, timeout_s), repetitions
        )
        count, armed = clients * REQUESTS, "5 s timeout each" if timeout_s else "no timeout"
        found.append(
            Row(
                name=f"loop: request and reply, {clients} clients x {REQUESTS}, {armed}",
                ours=f"{count / mean(ours):,.0f} requests/CPU-s",
                peer=f"SimPy {version('simpy')}: {count / mean(peer):,.0f} requests/CPU-s",
                limit="-", ratios=tuple(theirs / own for own, theirs in zip(ours, peer, strict=True)), goal=goal,
                command=command,
            )
        )  # fmt: skip
    return found
