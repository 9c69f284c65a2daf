"""Retry under load, in virtual time: ours as client gets through it; tokens of others, of another address or too old do not."""

from __future__ import annotations

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from aioquic.quic.retry import TOKEN_LIFETIME, QuicRetryTokenHandler

from quiver.quic.limits import Refusal
from tests.conformance.test_transport_packets import PacketNet
from tests.conformance.transport_suite import ECHO, Note
from tests.unit.quic.story import limit, links, tell


def header_of(data):
    return pull_quic_header(Buffer(data=data), host_cid_length=8)


def tap(node):
    """What a node sends, as it is sent."""
    sent, send = [], node._endpoint._send_datagram

    def keep(data, address):
        sent.append(data)
        send(data, address)

    node._endpoint._send_datagram = keep
    return sent


def test_under_load_a_client_is_told_to_retry_and_gets_through():
    async def story(net, a, b):
        limit(b, retry_threshold=0)
        from_a, from_b = tap(a), tap(b)
        assert (await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)).number == 1
        assert header_of(from_b[0]).packet_type is QuicPacketType.RETRY
        # Nothing was kept for it before: a Retry is smaller than an eighth of what it answers.
        assert 8 * len(from_b[0]) < 2 * len(from_a[0])
        assert b.quota.refused == {Refusal.RETRY: 1}
        assert len(links(b)) == 1

    tell(story)


def test_without_load_nobody_is_told_to():
    async def story(net, a, b):
        from_b = tap(b)
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        assert header_of(from_b[0]).packet_type is QuicPacketType.INITIAL and not b.quota.refused

    tell(story)


@pytest.mark.parametrize(
    ("address", "later_s", "is_accepted"),
    [(None, 0.0, True), (("10.7.7.7", 4001), 0.0, False), (None, TOKEN_LIFETIME + 1, False)],
    ids=["its own", "another address", "too old"],
)
def test_a_token_is_good_for_its_address_and_for_a_while(address, later_s, is_accepted):
    net = PacketNet()

    async def main(net):
        a, b = await net.node(), await net.node()
        net.meet(a, b)
        limit(b, retry_threshold=0)
        sent = tap(a)
        # B answers with Retry; what A sends after that is lost on its way.
        real = b.receive_datagram
        b._endpoint._tokens.validate_token, validate = refuse_all, b._endpoint._tokens.validate_token
        a._endpoint.dial(b.local_info().addresses[0], b.peer_id)
        await net.settle(0.3)
        b._endpoint._tokens.validate_token = validate
        assert not links(b) and b.quota.refused[Refusal.RETRY_TOKEN] >= 1
        for link in links(a):
            link.close(0, "enough")
        await net.settle(5.0 + later_s)
        before = b.quota.refused[Refusal.RETRY_TOKEN]
        second = next(data for data in sent if data[0] & 0xF0 == 0xC0 and header_of(data).token)
        real(second, address or (a.host, 4001))
        assert len(links(b)) == int(is_accepted)
        assert b.quota.refused[Refusal.RETRY_TOKEN] == before + (not is_accepted)

    net.run(main)


def refuse_all(**_):
    raise ValueError("lost")


def test_a_forged_token_is_refused_without_an_answer_and_without_a_connection():
    async def story(net, a, b):
        limit(b, retry_threshold=0)
        sent = tap(b)
        forger = QuicRetryTokenHandler()
        for token in (b"t" * 60, b"", forged_for(forger, ("10.9.9.9", 1))):
            header = bytes.fromhex("c00000000108") + b"d" * 8 + b"\x08" + b"s" * 8
            initial = header + bytes([0x40, len(token)]) + token + b"\x44\x00"
            b.receive_datagram(initial + bytes(1200 - len(initial)), ("10.9.9.9", 1))
        assert not links(b)
        # The one without a token is told to retry; the forged ones are told nothing.
        assert b.quota.refused == {Refusal.RETRY_TOKEN: 2, Refusal.RETRY: 1} and len(sent) == 1

    tell(story)


def forged_for(forger, address):
    return forger.create_token(
        address=address, original_destination_connection_id=b"o" * 8, retry_source_connection_id=b"d" * 8, now=0.0
    )
