"""Round trips of ours against those of js-libp2p, over QUIC, each on a stream of its own: rate, and CPU time of both ends.

Client and server are two processes of one maker; the makers take turns. js-libp2p names its protocol in a round trip of its own
(it has no optimistic negotiation), and its QUIC is compiled.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import NamedTuple

from tests.bench.measure import mean
from tests.bench.report import Goal, Row
from tests.bench.rows_live import AT_ONCE
from tests.interop import installed
from tests.interop.foreign import ForeignPeer

LISTEN = ["/ip4/127.0.0.1/udp/0/quic-v1"]
OURS = [sys.executable, "-m", "tests.bench.asking_host"]


class Measured(NamedTuple):
    """Of one repetition."""

    rate: float
    "Round trips a second, by the clock."
    cpu_us: float
    "CPU time a round trip, both ends, microseconds."


class Pair:
    """A client and a server of one maker, connected."""

    def __init__(self, client: ForeignPeer, server: ForeignPeer) -> None:
        self._ends = (client, server)

    @classmethod
    async def start(cls, kind: str, command: list[str]) -> Pair:
        """Two processes."""
        client, server = [
            await ForeignPeer.start(kind, command, listen=LISTEN, kad="/quiver/kad/1.0.0") for _ in range(2)
        ]
        await client.call("dial", address=server.addresses[0])
        return cls(client, server)

    async def _cpu_s(self) -> float:
        return sum([float(await end.call("cpu")) for end in self._ends])

    async def ask(self, requests: int) -> Measured:
        """One repetition."""
        client, server = self._ends
        before = await self._cpu_s()
        told = await client.call("ask", peer=server.peer, requests=requests, at_once=AT_ONCE)
        spent_s = await self._cpu_s() - before
        return Measured(rate=requests / told["seconds"], cpu_us=spent_s / requests * 1e6)

    async def stop(self) -> None:
        """Both."""
        for end in self._ends:
            await end.stop()


async def _measure(command: list[str], requests: int, repetitions: int) -> tuple[list[Measured], list[Measured]]:
    """Ours and the peer's. Who goes first alternates; one repetition before warms both up."""
    found: tuple[list[Measured], list[Measured]] = ([], [])
    pairs: list[Pair] = []
    try:
        pairs += [await Pair.start("ours", OURS), await Pair.start("js", command)]
        for repetition in range(-1, repetitions):
            for side in (0, 1) if repetition % 2 else (1, 0):
                measured = await pairs[side].ask(requests)
                if repetition >= 0:
                    found[side].append(measured)
    finally:
        for pair in pairs:
            await pair.stop()
    return found


def rows(*, quick: bool, command: str) -> list[Row]:
    """Rate and CPU time; no row, and the reason on standard output, where js-libp2p is not installed."""
    try:
        js = installed.command("js")
    except installed.NotInstalled as missing:
        print(f"skipped  js-libp2p: {missing}")
        return []
    requests, repetitions = (640, 5) if quick else (1600, 10)
    ours, peer = asyncio.run(_measure(js, requests, repetitions))
    version = json.loads((installed.JS / "package.json").read_text(encoding="utf-8"))["dependencies"]["libp2p"]
    rates, costs = ([[getattr(one, name) for one in side] for side in (ours, peer)] for name in ("rate", "cpu_us"))
    label = f"makers: round trip over QUIC, a stream a request, {AT_ONCE} at once, two processes"
    return [
        Row(
            name=f"{label}: rate, by the clock", ours=f"{mean(rates[0]):,.0f} a second",
            peer=f"js-libp2p {version}: {mean(rates[1]):,.0f} a second", limit="-",
            ratios=tuple(own / other for own, other in zip(*rates, strict=True)), goal=Goal(value=3.0), command=command,
        ),
        Row(
            name=label, ours=f"{mean(costs[0]):,.0f} µs CPU, both ends",
            peer=f"js-libp2p {version}: {mean(costs[1]):,.0f} µs CPU", limit="-",
            ratios=tuple(own / other for own, other in zip(*costs, strict=True)),
            goal=Goal(value=0.33, at_most=True), command=command,
        ),
    ]  # fmt: skip
