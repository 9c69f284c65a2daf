"""Processes full of nodes, as the tests of many nodes start, ask and kill them."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from functools import partial

from quiver.live.devnet import make_environment

# Long enough for a machine that does other things: what is measured is printed, not asserted.
START_S, ANSWER_S, FOUND_S = 40.0, 90.0, 60.0


class Process:
    """One `tests.live.crowd`."""

    def __init__(self, first: int, count: int) -> None:
        self.numbers = range(first, first + count)

    async def start(self, *bootstrap: str, host: str = "127.0.0.1", command: Sequence[str] = ()) -> None:
        """Its nodes bind `host`; `command` is what it is started by (`ip netns exec NAME`)."""
        self._process = await asyncio.create_subprocess_exec(
            *command, sys.executable, "-m", "tests.live.crowd", str(self.numbers[0]), str(len(self.numbers)), host, *bootstrap,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=make_environment(), limit=1 << 22,
        )  # fmt: skip
        said = await self._read(START_S)
        self.bootstrap: str = said["bootstrap"]
        self.peers: list[str] = said["peers"]

    async def _read(self, timeout_s: float):
        async with asyncio.timeout(timeout_s):
            line = await self._process.stdout.readline()
        assert line, f"the process ended with code {self._process.returncode}"
        return json.loads(line)

    async def call(self, *words):
        self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._read(ANSWER_S)

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._process._transport.close()


async def start_all(crowds, sizes, places=None):
    """Fill `crowds` with processes of so many nodes, the first node of all being the bootstrap; `places`: (host, command) of each."""
    places = places or [("127.0.0.1", ())] * len(sizes)
    crowds += [Process(sum(sizes[:position]), size) for position, size in enumerate(sizes)]
    starts = [
        partial(crowd.start, host=host, command=command) for crowd, (host, command) in zip(crowds, places, strict=True)
    ]
    await starts[0]()
    await asyncio.gather(*[start(crowds[0].bootstrap) for start in starts[1:]])


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def join_and_provide(crowds):
    """Times to the first lookup; asserts that all are servers, returns once every record is held."""
    joined = await asyncio.gather(*[crowd.call("join") for crowd in crowds])
    assert sum(one["servers"] for one in joined) == sum(len(crowd.peers) for crowd in crowds)
    await asyncio.gather(*[crowd.call("provide") for crowd in crowds])
    return [time_s for one in joined for time_s in one["lookup_s"]]


async def lookups(crowds, owner, numbers, *, step=1):
    """(how many, those that did not find exactly the owner as {number: [what was found instead, ...]}), by every node of `crowds` for
    every `step`-th of `numbers`."""
    answers = await asyncio.gather(*[crowd.call("find", step, *numbers) for crowd in crowds])
    wrong = {}
    for number, peers in (found for answer in answers for found in answer):
        if peers != [owner[number]]:
            wrong.setdefault(number, []).append([peer[-6:] for peer in peers])
    return sum(map(len, answers)), wrong


async def until_all_found(crowds, owners, *, step=1):
    """(seconds until lookups have found every record, share that was right at first), or a failure.

    A record that was placed while tables were young lies beside its place until it is announced again: every node looks again for each
    that was not found by all, and only for those, because a pass of all lookups takes a busy machine as long as healing may take.
    """
    owner = {number: peer for crowd in owners for number, peer in zip(crowd.numbers, crowd.peers, strict=True)}
    began_s = time.monotonic()
    total, wrong = await lookups(crowds, owner, owner, step=step)
    share = 1 - sum(map(len, wrong.values())) / total
    while wrong:
        elapsed_s = time.monotonic() - began_s
        assert elapsed_s < FOUND_S, f"not found {elapsed_s:.0f} s after the start: {wrong}"
        _, wrong = await lookups(crowds, owner, wrong)
    return time.monotonic() - began_s, share
