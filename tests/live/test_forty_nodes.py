"""A DHT of forty live nodes in six processes, a third of which is killed without a word."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence

from quiver.live.devnet import make_environment
from tests.live.crowd import PARAMS

SIZES = (7, 7, 7, 7, 6, 6)
KILLED = (1, 2)
"Positions of the processes that die: 14 of 40 nodes."
START_S, ANSWER_S = 20.0, 40.0


class Process:
    """One `tests.live.crowd`; `command` prefixes it (`ip netns exec ...`)."""

    def __init__(self, first: int, count: int) -> None:
        self.numbers = range(first, first + count)

    async def start(self, *bootstrap: str, command: Sequence[str] = ()) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *command, sys.executable, "-m", "tests.live.crowd", str(self.numbers[0]), str(len(self.numbers)), *bootstrap,
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


async def start_all(sizes, commands=None):
    """Processes of so many nodes, the first node of all being the bootstrap of the others."""
    firsts = [sum(sizes[:position]) for position in range(len(sizes))]
    crowds = [Process(first, size) for first, size in zip(firsts, sizes, strict=True)]
    commands = commands or [()] * len(sizes)
    await crowds[0].start(command=commands[0])
    await asyncio.gather(
        *[
            crowd.start(crowds[0].bootstrap, command=command)
            for crowd, command in zip(crowds[1:], commands[1:], strict=True)
        ]
    )
    return crowds


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def join_and_provide(crowds):
    """Times to the first lookup; asserts that all are servers and that every record is held."""
    joined = await asyncio.gather(*[crowd.call("join") for crowd in crowds])
    assert sum(one["servers"] for one in joined) == sum(len(crowd.peers) for crowd in crowds)
    for held in await asyncio.gather(*[crowd.call("provide") for crowd in crowds]):
        assert min(held) >= 1
    return [time_s for one in joined for time_s in one["lookup_s"]]


async def found_by(crowds, owners):
    """(lookups that found exactly the owner of the record, all lookups): each node of `crowds` looks for each of `owners`."""
    numbers = [number for crowd in owners for number in crowd.numbers]
    expected = [[peer] for crowd in owners for peer in crowd.peers]
    answers = await asyncio.gather(*[crowd.call("find", *numbers) for crowd in crowds])
    rows = [row for answer in answers for row in answer]
    good = sum(found == owner for row in rows for found, owner in zip(row, expected, strict=True))
    return good, len(rows) * len(expected)


def test_forty_nodes_survive_the_death_of_a_third(capsys):
    async def story():
        crowds = []
        try:
            began_s = time.monotonic()
            crowds = await start_all(SIZES)
            times_s = await join_and_provide(crowds)
            ready_s = time.monotonic() - began_s
            good, total = await found_by(crowds, crowds)
            assert (good, total) == (1600, 1600)
            found_s = time.monotonic() - began_s - ready_s

            dead = [crowds[position] for position in KILLED]
            alive = [crowd for crowd in crowds if crowd not in dead]
            await asyncio.gather(*[crowd.kill() for crowd in dead])
            killed_s = time.monotonic()
            good, total = await found_by(alive, alive)
            healed_s = time.monotonic() - killed_s
            assert (good, total) == (26 * 26, 26 * 26)

            await asyncio.sleep(max(0.0, killed_s + PARAMS.lease_s - time.monotonic()))
            ghosts = await asyncio.gather(
                *[crowd.call("find", *[number for one in dead for number in one.numbers]) for crowd in alive]
            )
            assert not [found for answer in ghosts for row in answer for found in row if found]
            return times_s, ready_s, found_s, healed_s
        finally:
            await asyncio.gather(*[crowd.kill() for crowd in crowds])

    times_s, ready_s, found_s, healed_s = asyncio.run(story())
    with capsys.disabled():
        os.write(
            sys.stdout.fileno(),
            f"\n40 nodes in {len(SIZES)} processes: from a node's start to its first routed lookup {percentile(times_s, 0.5):.2f} s "
            f"(median), {max(times_s):.2f} s (slowest); all joined, dialled back and their records held after {ready_s:.1f} s; 1600 of 1600 "
            f"lookups right within {found_s:.1f} s; after "
            f"the death of 14, 676 of 676 lookups right within {healed_s:.1f} s, no ghost after a lease of {PARAMS.lease_s:g} s\n".encode(),
        )  # fmt: skip
