"""A host's part in a network: the DHT with its mode, who enters its table, and whether others can dial this node.

Rules of this file: wiring only. Between simulation and reality these rules do not differ; what is here is what only real
networks have: protocols that peers list, firewalls, and nodes of other makers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from quiver.dht.public_key import PUBLIC_KEY_NAMESPACE, PublicKeyValidator
from quiver.dht.service import DhtService
from quiver.dht.value_store import Validator
from quiver.ids import PeerId, short
from quiver.live.libp2p.dialback import DialBackService
from quiver.live.libp2p.host import Host
from quiver.live.libp2p.identify_push import DEBOUNCE_S, IdentifyPush
from quiver.live.libp2p.kad_transport import KadTransport
from quiver.live.libp2p.reachability import Reachability, State
from quiver.live.libp2p.table_feed import TableFeed
from quiver.live.log import note
from quiver.runtime import Nursery, Runtime
from quiver.values.identify import Identify
from quiver.values.peer import PeerInfo
from quiver.wire.kad import KAD_QUIVER

# What go- and js-libp2p hold as well: public keys.
VALIDATORS: Mapping[str, Validator] = MappingProxyType({PUBLIC_KEY_NAMESPACE: PublicKeyValidator()})

# After the push that tells neighbours of a new server, and after the other newcomers' pushes.
SETTLE_S = 2 * DEBOUNCE_S
# Nodes of other networks whose refusal is remembered and logged.
FOREIGN_MAX = 256
_log = logging.getLogger("quiver.node")


class Mode(StrEnum):
    """Part in the DHT."""

    AUTO = "auto"
    "Client until others have shown that they can dial us."
    SERVER = "server"
    CLIENT = "client"


class Membership:
    """Over a started host. `runtime.transport` may be that host; the DHT gets its own view of it.

    `validators`: of each namespace whose values this node puts, gets and holds.
    """

    def __init__(
        self, host: Host, runtime: Runtime, *, mode: Mode = Mode.AUTO, ids: Sequence[str] = (KAD_QUIVER,),
        validators: Mapping[str, Validator] = VALIDATORS,
    ) -> None:  # fmt: skip
        self.mode = mode
        self._host = host
        self._clock = runtime.clock
        self._is_new = asyncio.Event()
        "Set when this node becomes a server."
        self.kad = KadTransport(host, ids, clock=runtime.clock, is_server=mode is Mode.SERVER)
        self.dht = DhtService(dataclasses.replace(runtime, transport=self.kad), validators=validators)
        self.push = IdentifyPush(host)
        self.reachability = Reachability(host, runtime.clock, on_change=self._on_reachability)
        self._feed = TableFeed(host, self.kad, self.dht)
        self._foreign: dict[PeerId, str] = {}
        host.identify.listeners.append(self._on_identified)
        if mode is not Mode.CLIENT:
            DialBackService(host, runtime.clock)

    def _on_identified(self, peer: PeerId, told: Identify) -> None:
        """The host turns nodes of other networks away; here it is said, once for each."""
        reason = self._host.foreign_reason(told)
        if reason and peer not in self._foreign and len(self._foreign) < FOREIGN_MAX:
            note(_log, logging.WARNING, f"turned away: {reason}", peer=peer)
            self._foreign[peer] = reason

    def why_silent(self, peers: Sequence[PeerInfo]) -> str:
        """What is known of `peers` that answered nothing; a clause to follow an error."""
        reasons = [
            f"{short(one.peer_id)}: {self._foreign[one.peer_id]}" for one in peers if one.peer_id in self._foreign
        ]
        return f" ({'; '.join(reasons)})" if reasons else ""

    def _on_reachability(self, state: State) -> None:
        """A node that others cannot dial answers no questions, or they would wait for it in vain."""
        is_well = state is State.REACHABLE and bool(self._host.local_info().addresses)
        if self.mode is Mode.AUTO and is_well != self.kad.is_server:
            self.kad.set_server(is_well)
            self.push.soon()
            if is_well:
                self._is_new.set()
        note(
            _log, logging.WARNING if state is State.UNREACHABLE else logging.INFO,
            f"others {'can' if state is State.REACHABLE else 'cannot'} dial this node" if state is not State.UNKNOWN
            else "not known yet whether others can dial this node",
            reachability=state, detail=self.reachability.detail(), fix=self.reachability.advice(),
            dht="server" if self.kad.is_server else "client",
        )  # fmt: skip

    async def run(self) -> None:
        """Keep asking whether we can be dialled, until cancelled."""
        async with Nursery() as nursery:
            nursery.start(self.reachability.run())
            while True:
                await self._is_new.wait()
                self._is_new.clear()
                # When we joined we were a client, and so was everybody who came with us: meet our neighbours as what we are now.
                await self._clock.sleep(SETTLE_S)
                await self.dht.find_node(self._host.peer_id)

    async def close(self) -> None:
        """Before the host closes."""
        await self._feed.close()
        await self.push.close()
