"""Whom to dial, at which address: several of them, failures, what is heard of peers, shared dials."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from quiver.errors import DeadlineExceeded, PeerUnreachable
from quiver.identity.keys import KeyPair
from quiver.quic import address_book, swarm
from quiver.values.peer import PeerInfo
from quiver.wire.multiaddr import from_text, quic_address
from tests.conformance.transport_suite import ECHO, OTHER, Note
from tests.unit.quic.story import links, tell


def test_nodes_that_dial_each_other_at_once_both_get_through():
    async def story(net, a, b):
        answers = await asyncio.gather(
            a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5), b.rpc(a.peer_id, ECHO, Note(number=2), timeout_s=5)
        )
        assert [answer.number for answer in answers] == [1, 2]

    tell(story)


@pytest.mark.parametrize("dials_again", [True, False])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("crashes", [0, 1])
def test_a_peer_in_another_life_is_reached_long_before_the_old_connection_ends(crashes, first, dials_again):
    """Every direction, because both ends prefer the connection that the smaller peer id dialled."""

    async def story(net, *nodes):
        dead, other = nodes[crashes], nodes[1 - crashes]
        await nodes[first].rpc(nodes[1 - first].peer_id, ECHO, Note(number=1), timeout_s=5)
        await net.settle(1.0)
        dead.crash()
        again = net.network.node(KeyPair(bytes([crashes + 1]) * 32))
        again.answer(ECHO, lambda peer, note: note)
        net.meet(again, other)
        if dials_again:
            await again.rpc(other.peer_id, ECHO, Note(number=2), timeout_s=5)
        with contextlib.suppress(DeadlineExceeded):
            await other.rpc(again.peer_id, ECHO, Note(number=3), timeout_s=5)
        assert (await other.rpc(again.peer_id, ECHO, Note(number=4), timeout_s=1)).number == 4
        await net.settle(40.0)
        assert len(links(other)) <= 1

    tell(story)


def test_a_connection_that_was_silent_for_a_while_is_used_again_when_it_answers():
    async def story(net, a, b):
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        send, b._endpoint._send_datagram = b._endpoint._send_datagram, lambda data, address: None
        with pytest.raises(DeadlineExceeded):
            await a.rpc(b.peer_id, ECHO, Note(number=2), timeout_s=3)
        assert a.swarm.link_to(b.peer_id) is None and len(links(a)) == 1
        b._endpoint._send_datagram = send
        await net.settle(10.0)
        assert a.swarm.link_to(b.peer_id) is links(a)[0]
        assert (await a.rpc(b.peer_id, ECHO, Note(number=3), timeout_s=1)).number == 3

    tell(story)


def test_a_dead_address_is_passed_over_for_the_next():
    async def story(net, a, b):
        dead = quic_address("10.9.9.9", 4001)
        useless = from_text("/dns4/node.example/udp/4001/quic-v1")
        a.learn(PeerInfo(peer_id=b.peer_id, addresses=(useless, dead, *b.local_info().addresses)))
        assert (await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=30)).number == 1
        # The dead one had a head start, and no more.
        assert swarm.DIAL_STAGGER_S < net.env.now < swarm.DIAL_STAGGER_S + 0.3
        assert [link.driver.is_closed for link in links(a)] == [True, False]

    tell(story)


def test_the_error_of_a_failed_dial_names_each_address_and_what_it_answered():
    async def story(net, a, b):
        a.learn(PeerInfo(peer_id=net.stranger(), addresses=b.local_info().addresses))
        stranger = list(a.swarm.book)[-1]
        with pytest.raises(PeerUnreachable, match="/ip4/10.0.0.1/udp/4001/quic-v1: another peer id"):
            await a.rpc(stranger, ECHO, Note(number=1), timeout_s=5)
        with pytest.raises(PeerUnreachable, match="no address of"):
            await a.rpc(net.stranger(), ECHO, Note(number=1), timeout_s=5)

    tell(story)


def test_one_caller_that_gives_up_does_not_end_the_dial_of_the_others():
    async def story(net, a, b):
        async def hasty():
            with pytest.raises(DeadlineExceeded):
                await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=0.03)

        results = await asyncio.gather(hasty(), a.rpc(b.peer_id, ECHO, Note(number=2), timeout_s=5))
        assert results[1].number == 2 and len(links(a)) == 1

    tell(story)


def test_where_a_peer_came_from_is_where_it_can_be_reached():
    async def story(net, a, b):
        stranger = await net.node()
        stranger.learn(a.local_info())
        stranger.answer(ECHO, lambda peer, note: Note(number=9))
        await stranger.rpc(a.peer_id, ECHO, Note(number=1), timeout_s=5)
        for link in links(a):
            link.close(0, "test")
        await net.settle(1.0)
        assert not links(a)
        assert (await a.rpc(stranger.peer_id, ECHO, Note(number=1), timeout_s=5)).number == 9

    tell(story)


def test_known_peers_are_bounded_and_the_oldest_is_forgotten(monkeypatch):
    monkeypatch.setattr(address_book, "PEERS_KNOWN_MAX", 2)

    async def story(net, a, b):
        newer = [net.stranger(), net.stranger()]
        for peer in newer:
            a.learn(PeerInfo(peer_id=peer, addresses=b.local_info().addresses))
        assert list(a.swarm.book) == newer

    tell(story)


def test_close_ends_a_dial_that_is_under_way():
    async def story(net, a, b):
        b.crash()
        asking = asyncio.get_running_loop().create_task(a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=60))
        await net.settle(0.1)
        await a.close()
        with pytest.raises(PeerUnreachable):
            await asking

    tell(story)


def test_an_address_that_failed_is_left_alone_for_longer_and_longer():
    async def story(net, a, b):
        await b.close()
        b.crash()
        waits = []
        for _ in range(3):
            began = net.env.now
            with pytest.raises(PeerUnreachable, match="no handshake"):
                await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=30)
            assert net.env.now - began > 5.0
            with pytest.raises(PeerUnreachable, match="failed before, left alone for"):
                await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=30)
            until_s, _ = next(iter(a.swarm._backoffs.values()))
            waits.append(until_s - net.env.now)
            await net.settle(waits[-1] + 0.01)
        assert waits == pytest.approx([0.25, 0.5, 1.0])

    tell(story)


@pytest.mark.parametrize(("is_pinned", "longest_s"), [(True, 10.0), (False, 128.0)])
def test_a_peer_an_operator_named_is_tried_again_soon_after_a_long_outage(is_pinned, longest_s):
    async def story(net, a, b):
        if is_pinned:
            a.pin(b.local_info())
        await b.close()
        b.crash()
        waits = []
        for _ in range(10):
            with pytest.raises(PeerUnreachable):
                await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=30)
            until_s, _ = next(iter(a.swarm._backoffs.values()))
            waits.append(until_s - net.env.now)
            await net.settle(waits[-1] + 0.01)
        assert max(waits) == pytest.approx(longest_s) and waits[-1] == max(waits)

    tell(story)


def test_an_address_is_forgotten_after_an_hour_unless_it_is_pinned_or_in_use():
    async def story(net, a, b):
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        heard, pinned = net.stranger(), net.stranger()
        address = quic_address("10.9.9.9", 4001)
        a.learn(PeerInfo(peer_id=heard, addresses=(address,)))
        a.pin(PeerInfo(peer_id=pinned, addresses=(address,)))
        later = net.env.now + address_book.ADDRESS_TTL_S
        assert a.swarm.book.addresses(heard, later - 1) == (address,)
        assert a.swarm.book.addresses(heard, later) == ()
        assert a.swarm.book.addresses(pinned, later) == (address,)
        a.swarm.book.keep(b.peer_id, later - 1)
        assert a.swarm.book.addresses(b.peer_id, later) == b.local_info().addresses

    tell(story)


def test_nobody_can_talk_a_peer_away_from_where_it_answered():
    async def story(net, a, b):
        a.answer(OTHER, lambda peer, note: note)
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        where = b.local_info().addresses
        for third in range(20):
            lies = tuple(quic_address(f"10.8.{third}.{n}", 4001) for n in range(1, 9))
            a.learn(PeerInfo(peer_id=b.peer_id, addresses=lies))
        a.learn(PeerInfo(peer_id=b.peer_id))
        known = a.swarm.book.addresses(b.peer_id, net.env.now)
        assert known[:1] == where and len(known) <= address_book.ADDRESSES_PER_PEER_MAX + 1

    tell(story)


def test_what_is_heard_of_a_peer_adds_up():
    async def story(net, a, b):
        peer, one, two = net.stranger(), quic_address("10.9.9.9", 4001), quic_address("10.9.9.8", 4001)
        a.learn(PeerInfo(peer_id=peer, addresses=(one,)))
        a.learn(PeerInfo(peer_id=peer, addresses=(two,)))
        assert a.swarm.book.addresses(peer, net.env.now) == (two, one)

    tell(story)
