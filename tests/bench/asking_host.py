"""Our node as a program of its own, driven as those of other makers are (tests/interop/foreign.py): dial, ask, cpu.

`python -m tests.bench.asking_host`, as the command of a `ForeignPeer`. Both ends of a measured connection are one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import uvloop

from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import parse_peer_id, peer_id_text
from quiver.live.libp2p.host import Host, Kind
from quiver.quic.limits import NodeLimits
from quiver.quic.rate import UNLIMITED
from quiver.values.peer import PeerInfo
from quiver.wire.multiaddr import from_text, to_text
from tests.bench.rows_live import ANSWER, QUESTION, RPC

TIMEOUT_S = 15.0


class Commands:
    """What it does when told: as in tests/interop/js/peer.mjs."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def dial(self, address: str) -> None:
        """Connect, by asking once."""
        where, _, peer = address.rpartition("/p2p/")
        self._host.learn(PeerInfo(peer_id=parse_peer_id(peer), addresses=(from_text(where),)))
        await self.ask(peer, 1, 1)

    async def ask(self, peer: str, requests: int, at_once: int) -> dict[str, float]:
        """Round trips, each on a stream of its own, `at_once` under way at a time; how long they took all together."""
        peer_id, left, began = parse_peer_id(peer), iter(range(requests)), time.perf_counter()

        async def work() -> None:
            for _ in left:
                assert await self._host.rpc(peer_id, RPC, QUESTION, timeout_s=TIMEOUT_S) == ANSWER

        await asyncio.gather(*[work() for _ in range(at_once)])
        return {"seconds": time.perf_counter() - began}

    async def cpu(self) -> float:
        """CPU time of this process and all its threads so far, in seconds."""
        return time.process_time()


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _answer(commands: Commands, told: dict[str, Any]) -> None:
    number, name = told.pop("id"), told.pop("command")
    try:
        _say({"id": number, "result": await getattr(commands, name)(**told)})
    except Exception as error:
        _say({"id": number, "error": type(error).__name__, "message": str(error)})


async def main() -> None:
    """Until the end of standard input; one command after another."""
    # One peer asks more here than a node grants a stranger.
    host = Host(KeyPair(os.urandom(32)), kinds=(Kind.QUIC,), node_limits=NodeLimits(rpc_rate=UNLIMITED))
    await host.start()
    host.answer(RPC, lambda peer, message: ANSWER)
    name, commands, lines = peer_id_text(host.peer_id), Commands(host), asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    addresses = [f"{to_text(address)}/p2p/{name}" for address in host.local_info().addresses]
    _say({"ready": {"peer": name, "addresses": addresses}})
    while line := await lines.readline():
        await _answer(commands, json.loads(line))
    await host.close()


if __name__ == "__main__":
    uvloop.run(main())
