"""Nodes that meet: who enters a routing table, what strangers are asked, and whether a node knows that it can be dialled."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pytest

from quiver.identity.keys import KeyPair
from quiver.live.clock import LiveClock
from quiver.live.libp2p.host import Host, Kind
from quiver.live.membership import Membership, Mode
from quiver.params import Params
from quiver.runtime import Nursery, Runtime
from quiver.wire.kad import KAD_QUIVER

PARAMS = Params(rpc_timeout_s=2.0, dial_timeout_s=2.0)


class Silence:
    """A trace nobody reads."""

    def emit(self, event):
        pass


class Peer:
    """A host with its membership."""

    def __init__(self, number, *, mode=Mode.AUTO, ids=(KAD_QUIVER,), **options):
        self.host = Host(KeyPair(bytes([number]) * 32), **options)
        self.mode, self.ids = mode, ids

    async def start(self):
        await self.host.start()
        nothing = cast(Any, None)
        runtime = Runtime(
            clock=LiveClock(), transport=self.host, store=nothing, signer=nothing, verifier=nothing, ledger=nothing,
            trace=Silence(), rng=random.Random(1), params=PARAMS,
        )  # fmt: skip
        self.membership = Membership(self.host, runtime, mode=self.mode, ids=self.ids)
        self.dht = self.membership.dht

    @property
    def info(self):
        return self.host.local_info()

    async def close(self):
        await self.membership.close()
        await self.host.close()


def play(story, *peers, loop_factory=None):
    """`story(*peers)` with all started, and `run` of each beside it; all are closed at the end."""

    async def main():
        try:
            for peer in peers:
                await peer.start()
            async with Nursery() as nursery:
                for peer in peers:
                    nursery.start(peer.membership.run())
                try:
                    await story(*peers)
                finally:
                    nursery.cancel()
        finally:
            for peer in peers:
                await peer.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


async def until(condition, what, timeout_s=8.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)
    assert condition(), what


def knows(one, other):
    return other.host.peer_id in one.dht.table


def drop_inbound(host):
    """A firewall: datagrams of strangers and new TCP connections are lost, answers to our own come through."""
    receive, known = host._udp._on_datagram, {}
    send = host._udp.send

    def sending(data, address):
        known[address] = True
        send(data, address)

    host._started._endpoint._send_datagram = sending
    host._udp._on_datagram = lambda data, address: receive(data, address) if address in known else None


@pytest.mark.parametrize("kind", Kind)
def test_servers_meet_by_identify_and_a_client_stays_out_of_the_table(kind):
    async def story(a, b, client):
        await b.dht.bootstrap([a.info])
        await client.dht.bootstrap([a.info])
        await until(lambda: knows(a, b) and knows(b, a) and knows(client, a), "servers know each other")
        assert client.host.peer_id in a.host.identify.known and not knows(a, client)
        assert await client.dht.provide(b"\x12\x20" + bytes(32)) == 2
        assert [info.peer_id for info in await b.dht.find_providers(b"\x12\x20" + bytes(32))] == [client.host.peer_id]

    options = {"kinds": (kind,)}
    play(
        story, Peer(1, mode=Mode.SERVER, **options), Peer(2, mode=Mode.SERVER, **options),
        Peer(3, mode=Mode.CLIENT, **options),
    )  # fmt: skip
