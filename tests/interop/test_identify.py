"""identify, its push, and ping against js-libp2p and py-libp2p, asked from either side, over QUIC and over TCP."""

from __future__ import annotations

import asyncio

import pytest

import quiver
from quiver.identity.peer_id import parse_peer_id, peer_id_text
from quiver.live.libp2p.host import Kind
from quiver.wire.envelope import open_peer_record
from quiver.wire.multiaddr import to_text
from tests.interop.ours import COUNT, ECHO, RESET, Way, address, serve

pytestmark = pytest.mark.interop

AGENTS = {"js": "js-libp2p/3.3.11", "py": "py-libp2p/0.8.1"}
OURS = {"/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0", ECHO.id, COUNT.id, RESET.id}


async def dialled(node, way):
    """The foreign peer dials ours, which serves the protocols of the tests; the id of ours as text."""
    serve(node)
    return (await way.other.call("dial", address=address(node)))["peer"]


async def has_asked(way, us):
    """Until the foreign peer knows, by a question of its own, what we serve."""
    while set(await way.other.call("protocols", peer=us)) != OURS:
        await asyncio.sleep(0.02)


def test_it_pings_us(run, way):
    async def story():
        async with way.opened() as node:
            us = await dialled(node, way)
            for _ in range(3):
                # Milliseconds, rounded.
                assert 0 <= await way.other.call("ping", peer=us) < 10_000

    run(story())


def test_we_ping_it(run, way):
    async def story():
        async with way.opened() as node:
            node.learn(way.info())
            for _ in range(3):
                assert 0 < await node.pings.ping(way.info().peer_id) < 10

    run(story())


def test_we_ping_it_over_the_connection_it_dialled(run, way):
    async def story():
        async with way.opened() as node:
            await dialled(node, way)
            assert 0 < await node.pings.ping(parse_peer_id(way.other.peer)) < 10

    run(story())


def test_what_it_is_told_of_us(run, way):
    async def story():
        async with way.opened() as node:
            us = await dialled(node, way)
            # js-libp2p asks one question at a time, and the first it asks by itself.
            await has_asked(way, us)
            told = await way.other.call("identify", peer=us)
            ours = [to_text(one) for one in node.local_info().addresses]
            assert told["peer"] == us == peer_id_text(node.peer_id)
            assert told["agent_version"] == f"quiver/{quiver.__version__}"
            assert told["protocol_version"] == "ipfs/0.1.0"
            assert set(told["protocols"]) == OURS
            assert told["addresses"] == ours
            assert told["observed"].startswith("/ip4/127.0.0.1/" + ("udp/" if way.kind is Kind.QUIC else "tcp/"))
            # js-libp2p has verified its signature; py-libp2p's identify does not show it.
            if way.other.kind == "js":
                assert told["signed"]["addresses"] == ours and int(told["signed"]["seq"]) > 0

    run(story())


def test_what_we_are_told_of_it(run, way):
    async def story():
        async with way.opened() as node:
            node.learn(way.info())
            await node.pings.ping(way.info().peer_id)
            told = await node.identify.ask(way.info().peer_id)
            assert told.agent_version.startswith(AGENTS[way.other.kind])
            assert told.protocol_version == "ipfs/0.1.0"
            assert {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", ECHO.id, COUNT.id, RESET.id} <= set(told.protocols)
            listening = {one.removesuffix(f"/p2p/{way.other.peer}") for one in way.other.addresses}
            assert {to_text(one) for one in told.listen_addresses} <= listening
            assert told.observed_address is not None
            record = open_peer_record(told.signed_peer_record)
            assert record.peer_id == way.info().peer_id and record.seq > 0
            # py-libp2p's have a tail.
            assert {to_text(one).removesuffix(f"/p2p/{way.other.peer}") for one in record.addresses} <= listening

    run(story())


def test_each_asks_the_other_on_a_new_connection_by_itself(run, way):
    async def story():
        async with way.opened() as node:
            await has_asked(way, await dialled(node, way))
            while parse_peer_id(way.other.peer) not in node.identify.known:
                await asyncio.sleep(0.02)

    run(story())


def test_js_pushes_what_is_new_to_us(run, start):
    js = start("js")
    novelty = "/quiver/interop/novelty/1.0.0"

    async def story(way):
        async with way.opened() as node:
            await dialled(node, way)
            peer = parse_peer_id(js.peer)
            while peer not in node.identify.known:
                await asyncio.sleep(0.02)
            before = node.identify.known[peer]
            await js.call("serve", protocol=f"{novelty}/{way.kind}")
            while f"{novelty}/{way.kind}" not in node.identify.known[peer].protocols:
                await asyncio.sleep(0.02)
            assert node.identify.known[peer].listen_addresses == before.listen_addresses

    for kind in Kind:
        run(story(Way(js, kind)))
