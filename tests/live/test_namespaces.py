"""Nodes in network namespaces of their own, with delay and loss between them: needs root, iproute2 and the kernel's netem."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import ExitStack

import pytest

from tests.live.crowds import join_and_provide, percentile, start_all, until_all_found

SIZES = (4, 4, 4)
NETEM = ("delay", "20ms", "5ms", "loss", "1%")
"On the way out of each namespace: a round trip takes 40 ms and loses 2 % of its packets."


def run(*command: str) -> None:
    """Skips with the reason where the machine does not allow it."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"`{' '.join(command)}`: {(getattr(error, 'stderr', '') or str(error)).strip()}")


def add_namespace(stack: ExitStack, name: str) -> None:
    run("ip", "netns", "add", name)
    stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True, timeout=10)


@pytest.fixture
def places():
    """(IP, command that runs something there) of each namespace, on one switch in a namespace of its own."""
    with ExitStack() as stack:
        mark = f"q{os.getpid()}"
        switch = f"{mark}s"
        add_namespace(stack, switch)
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        places = []
        for number in range(len(SIZES)):
            name, ip = f"{mark}n{number}", f"10.77.0.{number + 1}"
            add_namespace(stack, name)
            run("ip", "-n", switch, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", switch, "link", "set", f"v{number}", "master", "br0", "up")
            run("ip", "-n", name, "address", "add", f"{ip}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", name, "link", "set", device, "up")
            run("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", "netem", *NETEM)
            places.append((ip, ("ip", "netns", "exec", name)))
        yield places


@pytest.mark.long
def test_nodes_find_each_other_over_a_slow_network_that_loses_packets(places, capsys):
    async def story():
        crowds = []
        try:
            await start_all(crowds, SIZES, places)
            times_s = await join_and_provide(crowds)
            await until_all_found(crowds, crowds)
            await crowds[-1].kill()
            await until_all_found(crowds[:-1], crowds[:-1])
            return times_s
        finally:
            await asyncio.gather(*[crowd.kill() for crowd in crowds])

    times_s = asyncio.run(story())
    with capsys.disabled():
        os.write(
            1,
            f"\nfrom start to first lookup: {percentile(times_s, 0.5):.2f} s (median), {max(times_s):.2f} s\n".encode(),
        )
