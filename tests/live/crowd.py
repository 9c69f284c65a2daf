"""Several nodes in one process, driven over JSON lines: `python -m tests.live.crowd FIRST COUNT HOST [BOOTSTRAP]`.

Says `{"bootstrap": ..., "peers": [...]}` once all of them listen. Then each line of standard input is a command, answered with one
line: `join`, `provide`, `find NUMBER...`. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys

from quiver.errors import Unavailable
from quiver.identity.peer_id import peer_id_text
from quiver.live.clock import LiveClock
from quiver.live.config_network import parse_peer
from quiver.live.libp2p.host import Kind
from quiver.live.libp2p.reachability import State
from quiver.live.membership import Mode
from quiver.params import Params
from quiver.quic.limits import Limits
from quiver.runtime import Nursery
from quiver.wire.multiaddr import to_text
from tests.live.meeting import Peer

# k is small beside forty nodes, so that a record has to be looked for; what waits for the dead is short.
PARAMS = Params(k=8, rpc_timeout_s=4.0, dial_timeout_s=4.0, bucket_refresh_s=5.0, lease_s=24.0, republish_s=6.0)
LIMITS = Limits(idle_timeout_s=4.0, handshake_timeout_s=5.0)
# What one node looks for at a time: with more, forty nodes on two cores would only queue for one another.
LOOKUPS = 2


def key_of(number):
    """What node `number` provides."""
    return b"\x12\x20" + hashlib.sha256(f"node {number}".encode()).digest()


class Crowd:
    def __init__(self, first, count, host, bootstrap):
        # The first node of all is the bootstrap.
        self.numbers = range(first, first + count)
        self.peers = [
            Peer(
                number + 1,
                mode=Mode.AUTO if bootstrap else Mode.SERVER,
                params=PARAMS,
                limits=LIMITS,
                host=host,
                kinds=(Kind.QUIC,),
            )
            for number in self.numbers
        ]
        if not bootstrap:
            for peer in self.peers[1:]:
                peer.mode = Mode.AUTO
        self.bootstrap = bootstrap
        self.clock = LiveClock()
        self.started_s = []

    async def start(self):
        for peer in self.peers:
            self.started_s.append(self.clock.now())
            await peer.start()
        if not self.bootstrap:
            (*_, self.bootstrap) = self.addresses(self.peers[0])
        return {"bootstrap": self.bootstrap, "peers": [peer.peer_id.hex() for peer in self.peers]}

    def addresses(self, peer):
        return [f"{to_text(address)}/p2p/{peer_id_text(peer.peer_id)}" for address in peer.info.addresses]

    async def join(self):
        """Each node joins through the bootstrap and is dialled back: seconds from its start to its first answered lookup."""
        known = parse_peer(self.bootstrap, where="bootstrap")

        async def one(peer, started_s):
            if peer.peer_id != known.peer_id:
                while True:
                    try:
                        await peer.dht.bootstrap([known])
                        break
                    except Unavailable:
                        # As a node does: so many at once on a small machine, and questions do not wait long here.
                        await asyncio.sleep(0.2)
                assert (await peer.dht.find_node(known.peer_id))[0].peer_id == known.peer_id
            return self.clock.now() - started_s

        times_s = await asyncio.gather(*map(one, self.peers, self.started_s))
        # Dialled back, and met by others as what they are since.
        while any(peer.state is not State.REACHABLE or len(peer.dht.table) < PARAMS.k for peer in self.peers):
            await asyncio.sleep(0.05)
        return {"lookup_s": times_s, "servers": sum(peer.membership.kad.is_server for peer in self.peers)}

    async def provide(self):
        """How many peers hold the record of each; as a node does, it asks until somebody holds it."""

        async def one(peer, number):
            while not (held := await peer.dht.provide(key_of(number))):
                await asyncio.sleep(0.2)
            return held

        return await asyncio.gather(*map(one, self.peers, self.numbers))

    async def find(self, step, *numbers):
        """Whom the nodes here find for the numbers, as [number, peer ids]: each looks for every `step`-th, from another one on."""

        async def one(place, peer):
            gate = asyncio.Semaphore(LOOKUPS)

            async def look(number):
                async with gate:
                    found = await peer.dht.find_providers(key_of(int(number)))
                    return int(number), [info.peer_id.hex() for info in found]

            return await asyncio.gather(*map(look, numbers[place % int(step) :: int(step)]))

        answers = await asyncio.gather(*[one(place, peer) for place, peer in enumerate(self.peers)])
        return [answer for row in answers for answer in row]


async def main(first, count, host, bootstrap=""):
    crowd = Crowd(int(first), int(count), host, bootstrap)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    def say(value):
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    say(await crowd.start())
    async with Nursery() as nursery:
        for peer in crowd.peers:
            nursery.start(peer.membership.run())
            nursery.start(peer.dht.run())
        while line := (await reader.readline()).split():
            say(await getattr(crowd, line[0].decode())(*line[1:]))
        nursery.cancel()
    for peer in crowd.peers:
        await peer.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
