"""The judges judged: js-libp2p and py-libp2p among themselves pass what they ask of us, so a failure of theirs with us is ours.

What they can't do among themselves is said here too, with what they show instead.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.interop.foreign import CommandFailed
from tests.interop.ours import ECHO, NOBODYS

pytestmark = [pytest.mark.interop, pytest.mark.long]

QUIC, TCP = "/quic-v1", "/tcp/"
KEY = "ab" * 32


@pytest.fixture(params=["js-js", "js-py", "py-js", "py-py"])
def pair(request, start):
    """A dialler and a listener of one DHT, both new."""
    return [start(kind, kad="/ipfs/kad/1.0.0") for kind in request.param.split("-")]


async def connect(dialler, listener, transport):
    """The id of the listener, now connected."""
    told = await dialler.call("dial", address=listener.address("/ip4/", transport))
    assert told["peer"] == listener.peer
    return listener.peer


def is_js(peer):
    return peer.kind == "js"


def test_streams_over_quic(run, pair):
    dialler, listener = pair

    async def story():
        peer = await connect(dialler, listener, QUIC)
        assert (await dialler.call("echo", peer=peer, size=1_000_000))["same"]
        for size in (10, 1_000, 100_000):
            told = await dialler.call("half_close", peer=peer, size=size)
            assert told["counted"] == told["sent"] > size
        with pytest.raises(CommandFailed):
            await dialler.call("open", peer=peer, protocol=NOBODYS.id)
        assert await dialler.call("open", peer=peer, protocol=ECHO.id) == ECHO.id
        await dialler.call("reset", peer=peer)
        told = await dialler.call("be_reset", peer=peer)
        # js-libp2p takes a reset for an end.
        assert told["received"] == 0 and (told["error"] is None) == is_js(dialler)
        assert (await dialler.call("echo", peer=peer, size=10))["same"]

    run(story())


def test_ping_and_identify(run, pair):
    dialler, listener = pair

    async def story():
        peer = await connect(dialler, listener, QUIC)
        assert await dialler.call("ping", peer=peer) >= 0
        told = await dialler.call("identify", peer=peer)
        assert told["peer"] == peer and told["agent_version"].startswith(("js-libp2p/", "py-libp2p/"))
        assert {"/ipfs/ping/1.0.0", "/ipfs/kad/1.0.0", ECHO.id} <= set(told["protocols"])

    run(story())


def test_the_dht(run, pair):
    dialler, listener = pair

    async def story():
        await connect(dialler, listener, QUIC)
        for asker, known in ((dialler, listener), (listener, dialler)):
            # py-libp2p refuses until identify has told it that the peer is of the DHT.
            while not await asker.call("join", peer=known.peer):
                await asyncio.sleep(0.05)
            while known.peer not in await asker.call("routing_table"):
                await asyncio.sleep(0.05)
        assert (await dialler.call("find_peer", peer=listener.peer))["peer"] == listener.peer
        assert await dialler.call("provide", key=KEY) == []
        assert dialler.peer in [one["peer"] for one in await listener.call("find_providers", key=KEY)]
        assert await dialler.call("put", key="/interop/name", value="abcd") == []
        assert await listener.call("get", key="/interop/name") == "abcd"

    run(story())


@pytest.mark.parametrize("pair", ["js-js", "py-py"], indirect=True)
def test_streams_over_tcp(run, pair):
    dialler, listener = pair

    async def story():
        peer = await connect(dialler, listener, TCP)
        assert (await dialler.call("echo", peer=peer, size=1_000_000))["same"]
        told = await dialler.call("half_close", peer=peer, size=100_000)
        assert told["counted"] == told["sent"] > 100_000
        assert (await dialler.call("be_reset", peer=peer))["error"] is not None

    run(story())


@pytest.mark.parametrize("pair", ["js-py", "py-js"], indirect=True)
def test_js_refuses_the_certificate_of_py_over_tcp(run, pair):
    """@libp2p/tls looks at the first extension of a certificate only, and py-libp2p's is another one."""
    dialler, listener = pair

    async def story():
        with pytest.raises(CommandFailed):
            await connect(dialler, listener, TCP)

    run(story())


def test_py_ends_no_quic_handshake_over_ipv6(run, start):
    """So our own IPv6 is judged by js-libp2p alone (test_quic)."""
    dialler, listener = (start("py", listen=["/ip6/::1/udp/0/quic-v1"]) for _ in range(2))

    async def story():
        with pytest.raises(CommandFailed):
            await dialler.call("dial", address=listener.address("/ip6/"))

    run(story())
