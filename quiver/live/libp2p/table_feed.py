"""Who enters the routing table: a peer whose identify lists our DHT and that can be reached, and nobody by its own word alone.

js-libp2p does the same (facts of its kad-dht): without identify and a ping a peer could fill tables with addresses nobody
answers at. A peer we dialled has shown that it can be reached; one that dialled us is pinged.
"""

from __future__ import annotations

import asyncio

from quiver.dht.service import DhtService
from quiver.errors import QuiverError
from quiver.ids import PeerId
from quiver.live.libp2p.host import Host
from quiver.live.libp2p.kad_transport import KadTransport
from quiver.values.identify import Identify
from quiver.values.peer import PeerInfo
from quiver.wire import multiaddr

# Pings under way; a crowd of newcomers beyond it is met by lookups.
PINGS_MAX = 64
PING_TIMEOUT_S = 5.0
# Of those a peer lists, the first that we could dial: a table is no place for a page of addresses.
ADDRESSES_MAX = 8


class TableFeed:
    """Listens to identify from the moment it is made, for as long as the host lives."""

    def __init__(self, host: Host, kad: KadTransport, dht: DhtService) -> None:
        self._host = host
        self._kad = kad
        self._dht = dht
        self._pinging: dict[PeerId, asyncio.Task[None]] = {}
        host.identify.listeners.append(self.on_identified)

    def on_identified(self, peer: PeerId, told: Identify) -> None:
        """A peer said what it is, for the first time or again."""
        info = PeerInfo(peer_id=peer, addresses=dialable(told.listen_addresses))
        if not self._kad.is_spoken_by(told.protocols):
            # A client, or a server that became one.
            self._dht.table.on_failed(peer)
        elif info.addresses:
            link = self._host.swarm.link_to(peer)
            if link is not None and link.is_dialled or peer in self._dht.table:
                self._dht.observe(info)
            elif peer not in self._pinging and len(self._pinging) < PINGS_MAX:
                task = self._pinging[peer] = asyncio.get_running_loop().create_task(self._ping(info))
                task.add_done_callback(lambda _: self._pinging.pop(peer, None))

    async def _ping(self, info: PeerInfo) -> None:
        try:
            await self._host.pings.ping(info.peer_id, timeout_s=PING_TIMEOUT_S)
        except QuiverError:
            return
        self._dht.observe(info)

    async def close(self) -> None:
        """End the pings under way."""
        tasks = list(self._pinging.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def dialable(addresses: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Those with a numeric host over QUIC or TCP, without their /p2p tail."""
    found: dict[bytes, None] = {}
    for address in addresses:
        if (quic := multiaddr.quic_endpoint(address)) is not None:
            found[multiaddr.quic_address(*quic)] = None
        elif (tcp := multiaddr.tcp_endpoint(address)) is not None:
            found[multiaddr.tcp_address(*tcp)] = None
    return tuple(found)[:ADDRESSES_MAX]
