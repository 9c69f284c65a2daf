"""A libp2p host on loopback: identify, ping, QUIC and TCP side by side, networks that do not mix."""

from __future__ import annotations

import asyncio
import gc

import pytest

from quiver.errors import PeerUnreachable, StreamReset, UsageError, WireCode
from quiver.identity.keys import KeyPair
from quiver.live.clock import LiveClock
from quiver.live.libp2p.host import Host, Kind
from quiver.live.libp2p.identify import ASK
from quiver.live.libp2p.tcp import CLOSE_GRACE_S
from quiver.quic import swarm
from quiver.quic.limits import Refusal
from quiver.values.peer import PeerInfo
from quiver.wire import multiaddr
from quiver.wire.envelope import open_peer_record
from quiver.wire.ping import PING
from tests.conformance.transport_suite import ECHO, Note


def play(story, *options):
    """`story(*hosts)`, one host for each dict of options; each answers ECHO, and all are closed at the end."""

    async def main():
        hosts = [Host(KeyPair(bytes([number + 1]) * 32), **each) for number, each in enumerate(options)]
        try:
            for host in hosts:
                await host.start()
                host.answer(ECHO, lambda peer, note: note)
            return await story(*hosts)
        finally:
            for host in hosts:
                await host.close()

    return asyncio.run(main())


async def ask(a, b, number=1):
    return (await a.rpc(b.peer_id, ECHO, Note(number=number), timeout_s=5)).number


async def known(a, b):
    for _ in range(100):
        if b.peer_id in a.identify.known:
            return a.identify.known[b.peer_id]
        await asyncio.sleep(0.02)
    raise AssertionError("identify did not come")


def kind_in_use(a, b):
    address = a._transport.swarm.link_to(b.peer_id).return_address
    return Kind.TCP if multiaddr.tcp_endpoint(address) else Kind.QUIC


def test_questions_at_once_to_one_peer_are_one():
    """js-libp2p answers one identify of each peer at a time and resets a second: `p2p identify` lost its answer to it."""
    streams = []

    async def story(a, b):
        serve = b.identify._serve

        async def counted(stream):
            streams.append(stream)
            await serve(stream)

        b._transport.serve(ASK, counted)
        a.learn(b.local_info())
        # The connection is new, so the host asks by itself as well.
        told = await asyncio.gather(*[a.identify.ask(b.peer_id) for _ in range(3)])
        assert told[0] is told[1] is told[2] and len(streams) == 1
        # A later question is asked again.
        await a.identify.ask(b.peer_id)
        assert len(streams) == 2

    play(story, {"kinds": (Kind.QUIC,)}, {"kinds": (Kind.QUIC,)})


@pytest.mark.parametrize("kind", Kind)
def test_both_sides_learn_what_the_other_proves(kind):
    async def story(a, b):
        a.learn(b.local_info())
        await ask(a, b)
        for one, other in ((a, b), (b, a)):
            told = await known(one, other)
            assert told.listen_addresses == other.local_info().addresses
            assert {ECHO.id, "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"} == set(told.protocols)
            record = open_peer_record(told.signed_peer_record)
            assert (record.peer_id, record.addresses) == (other.peer_id, other.local_info().addresses)
        # B sees A where A listens over QUIC; over TCP it came from a port of its own.
        observed = a.identify.known[b.peer_id].observed_address
        assert (observed in a.local_info().addresses) == (kind is Kind.QUIC)

    play(story, {"kinds": (kind,)}, {"kinds": (kind,)})


@pytest.mark.parametrize("kind", Kind)
def test_ping(kind):
    async def story(a, b):
        a.learn(b.local_info())
        assert 0.0 < await a.pings.ping(b.peer_id) < 1.0
        # A connection found by A serves B as well.
        assert 0.0 < await b.pings.ping(a.peer_id) < 1.0

    play(story, {"kinds": (kind,)}, {"kinds": (kind,)})


@pytest.mark.parametrize("kind", Kind)
def test_many_pings_share_a_stream(kind):
    async def story(a, b):
        a.learn(b.local_info())
        times_s = await a.pings.series(b.peer_id, 20)
        assert len(times_s) == 20 and all(0.0 < time_s < 1.0 for time_s in times_s)

    play(story, {"kinds": (kind,)}, {"kinds": (kind,)})


def test_a_third_ping_stream_of_one_peer_is_refused():
    async def story(a, b):
        a.learn(b.local_info())
        streams = [await a.open(b.peer_id, PING, timeout_s=5) for _ in range(3)]
        for stream in streams:
            await stream.send(bytes(32))
        assert [await stream.receive() for stream in streams[:2]] == [bytes(32)] * 2
        with pytest.raises(StreamReset) as caught:
            await streams[2].receive()
        assert caught.value.code == WireCode.RESOURCE_LIMIT

    play(story, {}, {})


def test_quic_is_preferred_and_tcp_takes_over_where_no_datagram_comes_through():
    async def story(a, b, c):
        a.learn(b.local_info())
        await ask(a, b)
        assert kind_in_use(a, b) is Kind.QUIC
        # Nothing answers at C's UDP port, as behind a firewall that lets no UDP through.
        c._udp._on_datagram = lambda data, address: None
        a.learn(c.local_info())
        began = a._clock.now()
        await ask(a, c)
        assert kind_in_use(a, c) is Kind.TCP
        assert swarm.DIAL_STAGGER_S <= a._clock.now() - began < 2.0

    play(story, {}, {}, {})


@pytest.mark.parametrize(("kind", "other"), [(Kind.QUIC, Kind.TCP), (Kind.TCP, Kind.QUIC)])
def test_a_kind_that_is_forbidden_is_neither_dialled_nor_announced(kind, other):
    async def story(a, b):
        assert all(
            (multiaddr.tcp_endpoint(address) is not None) == (kind is Kind.TCP) for address in a.local_info().addresses
        )
        a.learn(b.local_info())
        with pytest.raises(PeerUnreachable, match="no address of .* that can be dialled"):
            await ask(a, b)

    play(story, {"kinds": (kind,)}, {"kinds": (other,)})


@pytest.mark.parametrize("size", [10, 5000, 200_000])
@pytest.mark.parametrize("kind", list(Kind))
def test_what_was_answered_before_a_close_still_arrives(kind, size):
    async def story(a, b):
        closing = []

        def answer(peer, note):
            closing.append(asyncio.get_running_loop().create_task(b.close()))
            return Note(number=2, text="x" * size)

        b.answer(ECHO, answer)
        a.learn(b.local_info())
        assert len((await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)).text) == size
        await closing[0]

    play(story, {"kinds": (kind,)}, {"kinds": (kind,)})


@pytest.mark.parametrize("kind", list(Kind))
def test_a_close_that_is_cancelled_releases_the_port(kind):
    """Who dials others back closes its host when it is cancelled itself: the socket was left to the garbage collector."""

    async def main():
        host = Host(KeyPair(b"\1" * 32), kinds=(kind,))
        await host.start()
        # Whatever a close waits for: identify is the first.
        host.identify.close = lambda: asyncio.sleep(60)
        closing = asyncio.create_task(host.close())
        await asyncio.sleep(0.05)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        again = Host(KeyPair(b"\2" * 32), kinds=(kind,), port=host.port)
        await again.start()
        await again.close()

    asyncio.run(main())


def test_a_peer_that_acknowledges_nothing_holds_up_a_close_for_a_second_at_most():
    async def story(a, b):
        asked = asyncio.Event()

        def answer(peer, note):
            # From now on nothing of A's comes through.
            a._udp.close()
            asked.set()
            return note

        b.answer(ECHO, answer)
        a.learn(b.local_info())
        question = asyncio.create_task(a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=60))
        await asked.wait()
        began_s = b._clock.now()
        await b.close()
        assert CLOSE_GRACE_S <= b._clock.now() - began_s < 3 * CLOSE_GRACE_S
        await a.close()
        with pytest.raises(PeerUnreachable):
            await question

    play(story, {"kinds": (Kind.QUIC,)}, {"kinds": (Kind.QUIC,)})


def test_a_host_needs_a_kind():
    with pytest.raises(UsageError, match="QUIC or TCP"):
        Host(KeyPair(bytes(32)), kinds=())


@pytest.mark.parametrize("kind", Kind)
def test_another_peer_than_the_one_that_was_dialled_is_refused(kind):
    async def story(a, b):
        stranger = KeyPair(b"s" * 32).peer_id
        a.learn(PeerInfo(peer_id=stranger, addresses=b.local_info().addresses))
        with pytest.raises(PeerUnreachable, match="another peer id than the one that was dialled"):
            await a.rpc(stranger, ECHO, Note(number=1), timeout_s=5)
        await asyncio.sleep(0.05)
        assert not a._transport.swarm.peers and not b._transport.swarm.peers

    play(story, {"kinds": (kind,)}, {"kinds": (kind,)})


class FastClock(LiveClock):
    """Two hours ahead: its certificates are not valid yet, and those of others still are."""

    def utc_ms(self):
        return super().utc_ms() + 2 * 3_600_000


@pytest.mark.parametrize(
    ("kind", "reason"), [(Kind.QUIC, "certificate valid .* not at"), (Kind.TCP, "bad certificate")]
)
def test_who_dials_hears_why_its_certificate_was_refused(kind, reason):
    async def story(a, b):
        a.learn(b.local_info())
        with pytest.raises(PeerUnreachable, match=reason):
            await ask(a, b)
        assert b.refused == {Refusal.HANDSHAKE: 1}

    play(story, {"kinds": (kind,), "clock": FastClock()}, {"kinds": (kind,)})


@pytest.mark.parametrize("kind", Kind)
def test_two_networks_never_mix_and_both_learn_why(kind):
    async def story(a, b, c):
        a.learn(b.local_info())
        a.learn(c.local_info())
        assert await ask(a, b) == 1
        with pytest.raises((StreamReset, PeerUnreachable)) as caught:
            await ask(a, c)
        if isinstance(caught.value, StreamReset):
            assert caught.value.code == WireCode.NEGOTIATION_FAILED
        for _ in range(100):
            if c.peer_id not in a._transport.swarm.peers and not c._transport.swarm.peers:
                break
            await asyncio.sleep(0.02)
        assert a._transport.swarm.peers == (b.peer_id,) and not c._transport.swarm.peers

    kinds = {"kinds": (kind,)}
    play(story, {"network": "aaaa", **kinds}, {"network": "aaaa", **kinds}, {"network": "bbbb", **kinds})


@pytest.mark.parametrize("turns", range(8))
def test_a_start_that_is_cancelled_leaves_no_port_bound(turns):
    async def main():
        host = Host(KeyPair(bytes(32)))
        starting = asyncio.ensure_future(host.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if not starting.cancelled():
            await host.close()

    asyncio.run(main())
    # A socket that nobody closed is a warning when it is collected, and warnings are errors.
    gc.collect()
