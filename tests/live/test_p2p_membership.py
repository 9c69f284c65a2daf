"""Nodes that meet: who enters a routing table, in which protocol strangers are asked, and which loop runs it."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from quiver.dht.public_key import public_key_record_key
from quiver.errors import StreamReset, WireCode
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import encode_public_key, public_key_of
from quiver.live.libp2p.host import Kind
from quiver.live.membership import Mode
from quiver.values.kad import KadMessage, KadType
from quiver.wire.kad import KAD_IPFS, KAD_QUIVER, KadCodec
from tests.live.meeting import Peer, play, until

KEY = b"\x12\x20" + bytes(32)
PK = public_key_record_key(KeyPair(bytes(32)).peer_id)
SERVER = {"mode": Mode.SERVER}


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("kind", Kind)
def test_servers_meet_by_identify_and_a_client_stays_out_of_the_table(kind, loop_factory):
    async def story(a, b, client):
        await b.dht.bootstrap([a.info])
        await client.dht.bootstrap([a.info])
        await until(lambda: a.knows(b) and b.knows(a) and client.knows(a), "servers that know each other")
        assert await client.dht.provide(KEY) == 2
        key, value = public_key_record_key(client.peer_id), encode_public_key(public_key_of(client.peer_id))
        assert await client.dht.put_value(key, value) == 2 and await client.dht.get_value(key) == value
        assert client.peer_id in a.host.identify.known and not a.knows(client) and not b.knows(client)
        assert [info.peer_id for info in await b.dht.find_providers(KEY)] == [client.peer_id]

    options = {"kinds": (kind,)}
    play(
        story, Peer(1, **SERVER, **options), Peer(2, **SERVER, **options), Peer(3, mode=Mode.CLIENT, **options),
        loop_factory=loop_factory,
    )  # fmt: skip


def test_a_question_alone_lets_nobody_into_the_table():
    async def story(a, liar):
        # Says that it is a server, but lists no DHT in identify.
        liar.host.learn(a.info)
        for kind, key in ((KadType.FIND_NODE, KEY), (KadType.GET_PROVIDERS, KEY), (KadType.GET_VALUE, PK)):
            question = KadMessage(type=kind, key=key, providers=(liar.info,))
            await liar.host.rpc(a.peer_id, KadCodec(KAD_QUIVER), question, timeout_s=5)
        await until(lambda: liar.peer_id in a.host.identify.known, "its identify")
        await asyncio.sleep(0.1)
        assert not a.knows(liar)

    play(story, Peer(1, **SERVER), Peer(2, mode=Mode.CLIENT))


def test_a_peer_that_changes_is_updated_by_one_push():
    async def story(a, b):
        await b.dht.bootstrap([a.info])
        await until(lambda: a.knows(b), "b in a's table")
        heard = []
        a.host.identify.listeners.append(lambda peer, _: heard.append(peer))
        b.membership.kad.set_server(False)
        b.membership.push.soon()
        b.membership.push.soon()
        await until(lambda: not a.knows(b), "b to leave a's table")
        with pytest.raises(StreamReset) as refused:
            await a.host.rpc(b.peer_id, KadCodec(KAD_QUIVER), KadMessage(type=KadType.PING), timeout_s=5)
        assert refused.value.code == WireCode.NEGOTIATION_FAILED
        b.membership.kad.set_server(True)
        b.membership.push.soon()
        await until(lambda: a.knows(b), "b back in a's table")
        assert heard.count(b.peer_id) == 2

    play(story, Peer(1, **SERVER), Peer(2, **SERVER))


def test_each_peer_is_asked_in_a_dht_protocol_it_serves():
    async def story(both, public, private):
        await public.dht.bootstrap([both.info])
        await private.dht.bootstrap([both.info])
        await until(lambda: both.knows(public) and both.knows(private), "both kinds in one table")
        assert await both.dht.provide(KEY) == 2
        assert [info.peer_id for info in await public.dht.find_providers(KEY)] == [both.peer_id]
        assert [info.peer_id for info in await private.dht.find_providers(KEY)] == [both.peer_id]
        # They have no protocol in common.
        assert not public.knows(private) and not private.knows(public)

    play(
        story, Peer(1, ids=(KAD_QUIVER, KAD_IPFS), **SERVER), Peer(2, ids=(KAD_IPFS,), **SERVER), Peer(3, **SERVER)
    )  # fmt: skip


def test_ipv6():
    async def story(a, b):
        await b.dht.bootstrap([a.info])
        await until(lambda: a.knows(b) and b.knows(a), "servers that know each other")

    play(story, Peer(1, host="::1", **SERVER), Peer(2, host="::1"))
