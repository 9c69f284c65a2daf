"""Nodes in one process that meet on loopback: each a host of its own with its part in the DHT."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

from quiver.identity.keys import KeyPair
from quiver.live.clock import LiveClock
from quiver.live.libp2p.host import Host
from quiver.live.membership import VALIDATORS, Membership, Mode
from quiver.params import Params
from quiver.runtime import Nursery, Runtime
from quiver.wire.kad import KAD_QUIVER

PARAMS = Params(rpc_timeout_s=2.0, dial_timeout_s=2.0)


class Silence:
    """A trace nobody reads."""

    def emit(self, event):
        pass


class Peer:
    """A host with its membership; `options` are the host's."""

    def __init__(self, number, *, mode=Mode.AUTO, ids=(KAD_QUIVER,), params=PARAMS, validators=VALIDATORS, **options):
        self.host = Host(KeyPair(number.to_bytes(32, "big")), **options)
        self.mode, self.ids, self.params, self.validators = mode, ids, params, validators

    async def start(self):
        await self.host.start()
        nothing = cast(Any, None)
        runtime = Runtime(
            clock=LiveClock(), transport=self.host, store=nothing, signer=nothing, verifier=nothing, ledger=nothing,
            trace=Silence(), rng=random.Random(1), params=self.params,
        )  # fmt: skip
        self.membership = Membership(self.host, runtime, mode=self.mode, ids=self.ids, validators=self.validators)
        self.dht = self.membership.dht

    @property
    def peer_id(self):
        return self.host.peer_id

    @property
    def info(self):
        return self.host.local_info()

    @property
    def state(self):
        return self.membership.reachability.state

    def knows(self, other):
        return other.peer_id in self.dht.table

    async def close(self):
        await self.membership.close()
        await self.host.close()


def play(story, *peers, loop_factory=None):
    """`story(*peers)` with all started, and `run` of each beside it; all are closed at the end."""

    async def main():
        started = []
        try:
            for peer in peers:
                started.append(peer)
                await peer.start()
            async with Nursery() as nursery:
                for peer in peers:
                    nursery.start(peer.membership.run())
                try:
                    await story(*peers)
                finally:
                    nursery.cancel()
        finally:
            for peer in started:
                await peer.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


async def until(condition, what, timeout_s=10.0):
    """Wait for a state."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what} did not come") from None


def drop_inbound(host):
    """A firewall before a started host: it lets only through what answers datagrams and connections of the host's own."""
    asked = {}
    if host._udp is not None:
        receive, send = host._udp._on_datagram, host._udp.send

        def sending(data, address):
            asked[address] = None
            send(data, address)

        host._started._endpoint._send_datagram = sending
        host._udp._on_datagram = lambda data, address: receive(data, address) if address in asked else None
    if host._tcp is not None:
        host._tcp.has_room = lambda ip: False
