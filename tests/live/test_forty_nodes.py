"""A DHT of forty live nodes in six processes, a third of which is killed without a word."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from tests.live.crowd import PARAMS
from tests.live.crowds import join_and_provide, percentile, start_all, until_all_found

SIZES = (7, 7, 7, 7, 6, 6)
KILLED = (1, 2)
"Positions of the processes that die: 14 of 40 nodes."


def test_forty_nodes_survive_the_death_of_a_third(capsys):
    async def story():
        crowds = []
        try:
            began_s = time.monotonic()
            await start_all(crowds, SIZES)
            times_s = await join_and_provide(crowds)
            ready_s = time.monotonic() - began_s
            found_s, found = await until_all_found(crowds, crowds, step=4)

            dead = [crowds[position] for position in KILLED]
            alive = [crowd for crowd in crowds if crowd not in dead]
            await asyncio.gather(*[crowd.kill() for crowd in dead])
            killed_s = time.monotonic()
            healed_s, healed = await until_all_found(alive, alive)

            await asyncio.sleep(max(0.0, killed_s + PARAMS.lease_s - time.monotonic()))
            ghosts = await asyncio.gather(
                *[crowd.call("find", 1, *[number for one in dead for number in one.numbers]) for crowd in alive]
            )
            assert [len(answer) for answer in ghosts] == [14 * len(crowd.peers) for crowd in alive]
            assert not [found for answer in ghosts for found in answer if found[1]]
            return times_s, ready_s, found_s, found, healed_s, healed
        finally:
            await asyncio.gather(*[crowd.kill() for crowd in crowds])

    times_s, ready_s, found_s, found, healed_s, healed = asyncio.run(story())
    with capsys.disabled():
        os.write(
            sys.stdout.fileno(),
            f"\n40 nodes in {len(SIZES)} processes: from a node's start to its first routed lookup {percentile(times_s, 0.5):.2f} s "
            f"(median), {max(times_s):.2f} s (slowest); all joined, dialled back and their records held after {ready_s:.1f} s; "
            f"400 lookups all right after {found_s:.1f} s ({found:.1%} at first); after the death of 14, 676 lookups all right after "
            f"{healed_s:.1f} s ({healed:.1%} at first), no ghost after a lease of {PARAMS.lease_s:g} s\n".encode(),
        )  # fmt: skip
