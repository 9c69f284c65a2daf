"""Whether a node knows that others can dial it: the vote, who is dialled back, and what a firewall does to it."""

from __future__ import annotations

import pytest

from quiver.errors import StreamReset
from quiver.identity.keys import KeyPair
from quiver.live.libp2p.dialback import ALL, PER_PEER, DialBackLimits, check_address
from quiver.live.libp2p.host import Kind
from quiver.live.libp2p.reachability import State, Vote
from quiver.live.membership import Mode
from quiver.values.dialback import DialBackAnswer, DialBackQuestion, Outcome
from quiver.wire.multiaddr import from_text, quic_address, tcp_address, to_text
from quiver.wire.protocols import DIALBACK
from tests.live.meeting import Peer, drop_inbound, play, until

A, B, C, D = (KeyPair(bytes([number]) * 32).peer_id for number in range(1, 5))
QUIC, TCP = quic_address("192.0.2.1", 4001), tcp_address("192.0.2.1", 4001)
YES, REFUSED = DialBackAnswer(outcome=Outcome.REACHED), DialBackAnswer(outcome=Outcome.REFUSED, reason="busy")
NO = DialBackAnswer(outcome=Outcome.UNREACHED, reason="no answer within 5 s")


def vote(*said):
    counted = Vote()
    for peer, address, answer in said:
        counted.on_answer(peer, address, answer)
    return counted


def test_nothing_is_known_before_somebody_has_tried():
    assert vote().state() is vote((A, QUIC, REFUSED)).state() is State.UNKNOWN


def test_most_voters_decide_and_of_each_only_the_last_word_counts():
    assert vote((A, QUIC, YES)).state() is State.REACHABLE
    assert vote((A, QUIC, YES), (B, QUIC, NO)).state() is State.UNREACHABLE
    assert vote((A, QUIC, YES), (B, QUIC, NO), (C, QUIC, YES)).state() is State.REACHABLE
    assert vote((A, QUIC, YES), (B, QUIC, NO), (C, QUIC, YES), (A, QUIC, NO)).state() is State.UNREACHABLE
    # A fourth voter replaces the oldest word, not the whole vote.
    assert vote((A, QUIC, NO), (B, QUIC, NO), (C, QUIC, YES), (D, QUIC, YES)).state() is State.REACHABLE


def test_one_address_that_works_is_enough_and_the_others_are_explained():
    counted = vote((A, QUIC, NO), (A, TCP, YES))
    assert counted.state() is State.REACHABLE
    assert counted.reached() == [TCP] and counted.reasons() == ["no answer within 5 s"]


@pytest.mark.parametrize(
    ("text", "asker", "expected"),
    [
        ("/ip4/192.0.2.1/udp/4001/quic-v1", "192.0.2.1", Kind.QUIC),
        ("/ip4/192.0.2.1/tcp/4001", "192.0.2.1", Kind.TCP),
        ("/ip6/2001:db8::1/tcp/4001", "2001:db8::1", Kind.TCP),
        ("/ip4/192.0.2.1/tcp/4001", "::ffff:192.0.2.1", Kind.TCP),
        ("/ip4/192.0.2.2/udp/4001/quic-v1", "192.0.2.1", "only your own IP"),
        ("/ip6/2001:db8::1/udp/4001/quic-v1", "192.0.2.1", "only your own IP"),
        ("/ip4/192.0.2.1/udp/0/quic-v1", "192.0.2.1", "port 0"),
        ("/dns4/example.org/tcp/4001", "192.0.2.1", "numeric host"),
        ("/ip4/192.0.2.1/udp/53", "192.0.2.1", "numeric host"),
    ],
)
def test_nobody_can_have_third_parties_dialled(text, asker, expected):
    found = check_address(from_text(text), asker)
    assert found is expected if isinstance(expected, Kind) else expected in found


def test_one_asker_has_its_share_and_all_together_theirs():
    limits = DialBackLimits(now=0.0)
    assert [limits.admit(A, 0.0) for _ in range(PER_PEER.burst + 1)] == [True] * PER_PEER.burst + [False]
    assert limits.admit(B, 0.0)
    assert limits.admit(A, 1 / PER_PEER.per_s)
    crowd = [KeyPair(number.to_bytes(32, "big")).peer_id for number in range(100, 101 + ALL.burst)]
    assert sum(limits.admit(peer, 31.0) for peer in crowd) == ALL.burst


def test_a_node_becomes_a_server_once_others_have_dialled_it_back():
    async def story(a, b):
        assert not b.membership.kad.is_server
        await b.dht.bootstrap([a.info])
        await until(lambda: b.membership.kad.is_server, "the word of a")
        assert b.state is State.REACHABLE
        detail = b.membership.reachability.detail
        await until(lambda: all(to_text(address) in detail() for address in b.info.addresses), "a word on each address")
        await until(lambda: a.knows(b), "b in a's table, by its push")

    play(story, Peer(1, mode=Mode.SERVER), Peer(2))


@pytest.mark.parametrize("kinds", [(Kind.QUIC,), (Kind.TCP,), tuple(Kind)])
def test_a_node_behind_a_firewall_stays_a_client_and_knows_why(kinds):
    async def story(a, b, hidden):
        drop_inbound(hidden.host)
        await b.dht.bootstrap([a.info])
        await hidden.dht.bootstrap([a.info])
        assert await hidden.dht.find_node(b.peer_id)
        reachability = hidden.membership.reachability
        await until(lambda: hidden.state is State.UNREACHABLE, "a vote", timeout_s=20.0)
        assert not hidden.membership.kad.is_server and not a.knows(hidden)
        assert "did not get through" in reachability.detail()
        for kind, name in ((Kind.QUIC, "UDP"), (Kind.TCP, "TCP")):
            assert (name in reachability.advice()) == (kind in kinds)
        assert f"port {hidden.host.port}" in reachability.advice()

    play(story, Peer(1, mode=Mode.SERVER), Peer(2, mode=Mode.SERVER), Peer(3, kinds=kinds))


def test_a_node_that_announces_nothing_is_told_what_to_announce():
    async def story(a, b):
        assert not b.info.addresses
        await b.dht.bootstrap([a.info])
        await until(lambda: b.state is State.REACHABLE, "a vote")
        assert f'announce = ["/ip4/127.0.0.1/udp/{b.host.port}/quic-v1"' in b.membership.reachability.advice()
        assert not b.membership.kad.is_server

    play(story, Peer(1, mode=Mode.SERVER), Peer(2, host="0.0.0.0"))


def test_a_question_for_another_ip_and_something_else_than_a_question_are_refused():
    async def story(a, b):
        b.host.learn(a.info)
        elsewhere = DialBackQuestion(address=quic_address("127.0.0.2", 4001))
        answer = await b.host.rpc(a.peer_id, DIALBACK, elsewhere, timeout_s=5)
        assert answer.outcome is Outcome.REFUSED and "only your own IP" in answer.reason
        with pytest.raises(StreamReset):
            await b.host.rpc(a.peer_id, DIALBACK, YES, timeout_s=5)

    play(story, Peer(1, mode=Mode.SERVER), Peer(2, mode=Mode.CLIENT))


def test_another_peer_at_our_address_is_not_us():
    async def story(a, b, c):
        # b says that c's address is its own.
        b.host.learn(a.info)
        question = DialBackQuestion(address=c.info.addresses[0])
        answer = await b.host.rpc(a.peer_id, DIALBACK, question, timeout_s=10)
        assert answer.outcome is Outcome.UNREACHED and "another peer id" in answer.reason

    play(story, Peer(1, mode=Mode.SERVER), Peer(2, mode=Mode.CLIENT), Peer(3, mode=Mode.CLIENT))
