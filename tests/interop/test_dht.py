"""js-libp2p and py-libp2p in our DHT, over QUIC and over TCP, whoever dialled: peers, provider records, values."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import pytest

from quiver.dht.public_key import public_key_record_key
from quiver.errors import QuiverError
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import encode_public_key, peer_id_text
from quiver.live.libp2p.host import Kind
from quiver.values.kad import KadMessage, KadType, Record
from quiver.wire.multiaddr import to_text
from quiver.wire.protocols import KAD as KAD_SPEC
from tests.interop.conftest import KAD
from tests.interop.met import Background, Met, info_of, know_each_other, member, multihash, peer_id_of, running
from tests.interop.ours import address
from tests.live.meeting import until

pytestmark = pytest.mark.interop

# Held by ours before the stranger came: what it finds of these it was told by us.
OLD_KEY, OLD_NAME, OLD_VALUE = "0d" * 32, "/interop/old", b"\x00\xff value"
WAYS = [(kind, way, dialler) for kind in ("js", "py") for way in Kind for dialler in ("we", "it")]


@asynccontextmanager
async def meeting(other, way, dialler):
    """The stranger meets two of ours that know each other, and a record and a value."""
    near, far = (member(KAD[other.kind], (way,)) for _ in range(2))
    async with running(near, far):
        await far.dht.bootstrap([near.info])
        await until(lambda: near.knows(far), "far in the table of near")
        assert await far.dht.provide(multihash(OLD_KEY)) == await far.dht.put_value(OLD_NAME.encode(), OLD_VALUE) == 1
        if dialler == "we":
            await near.dht.bootstrap([info_of(other, way)])
        else:
            await other.call("dial", address=address(near.host))
        await know_each_other(near, other)
        yield Met(near, far, other)


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]}-{way[1]}-{way[2]}-dialled")
def met(request, run, start):
    """One meeting for all tests of this file."""
    kind, way, dialler = request.param
    other, background = start(kind), Background(run)
    yield background.enter(meeting(other, way, dialler))
    background.leave()
    run(other.stop())


def test_it_finds_a_peer_it_was_not_told_of(run, met):
    async def story():
        found = await met.other.call("find_peer", peer=peer_id_text(met.far.peer_id))
        assert found["peer"] == peer_id_text(met.far.peer_id)
        assert to_text(met.far.info.addresses[0]) in found["addresses"]

    run(story())


def test_it_is_found_by_one_of_us_that_it_did_not_meet(run, met):
    async def story():
        nearest = await met.far.dht.find_node(peer_id_of(met.other))
        assert nearest[0].peer_id == peer_id_of(met.other) and nearest[0].addresses

    run(story())


def test_it_finds_a_record_that_only_we_hold(run, met):
    async def story():
        found = await met.other.call("find_providers", key=OLD_KEY)
        # py-libp2p names a provider once for each peer that told it.
        assert {one["peer"] for one in found} == {peer_id_text(met.far.peer_id)}
        assert to_text(met.far.info.addresses[0]) in found[0]["addresses"]

    run(story())


def test_it_finds_a_value_that_only_we_hold(run, met):
    async def story():
        assert await met.other.call("get", key=OLD_NAME) == OLD_VALUE.hex()

    run(story())


def test_its_record_is_held_by_both_of_us(run, met):
    async def story():
        key = os.urandom(32).hex()
        assert await met.other.call("provide", key=key) == []
        for one in (met.near, met.far):
            (found,) = await one.dht.find_providers(multihash(key))
            assert found.peer_id == peer_id_of(met.other) and found.addresses

    run(story())


def test_our_record_is_held_by_it(run, met):
    async def story():
        key = os.urandom(32).hex()
        assert await met.near.dht.provide(multihash(key)) == 2
        found = await met.other.call("find_providers", key=key)
        assert {one["peer"] for one in found} == {peer_id_text(met.near.peer_id)}

    run(story())


def test_its_value_is_held_by_both_of_us(run, met):
    async def story():
        name = f"/interop/{os.urandom(8).hex()}"
        assert await met.other.call("put", key=name, value="00ff") == []
        for one in (met.near, met.far):
            assert await one.dht.get_value(name.encode()) == b"\x00\xff"

    run(story())


def test_our_value_is_held_by_it(run, met):
    async def story():
        name = f"/interop/{os.urandom(8).hex()}"
        assert await met.near.dht.put_value(name.encode(), b"\x00\xff") == 2
        assert await met.other.call("get", key=name) == "00ff"

    run(story())


def test_public_keys_are_values_that_both_check(run, met):
    """In /pk, which go- and js-libp2p hold as well. py-libp2p's keys of values are text, and these are not."""
    if met.other.kind == "py":
        pytest.skip("py-libp2p 0.8.1 takes no binary key of a value")

    async def story():
        mine, theirs, another = (KeyPair(os.urandom(32)) for _ in range(3))
        values = [encode_public_key(one.public_key).hex() for one in (mine, theirs, another)]
        assert await met.near.dht.put_value(public_key_record_key(mine.peer_id), bytes.fromhex(values[0])) == 2
        key = public_key_record_key(mine.peer_id).hex()
        assert await met.other.call("get", key=key, encoding="hex") == values[0]
        key = public_key_record_key(theirs.peer_id)
        assert await met.other.call("put", key=key.hex(), value=values[1], encoding="hex") == []
        assert await met.far.dht.get_value(key) == bytes.fromhex(values[1])
        # A key under the name of another peer: js-libp2p sends it out, and none of us takes it.
        key = public_key_record_key(another.peer_id)
        refusals = await met.other.call("put", key=key.hex(), value=values[0], encoding="hex")
        assert len(refusals) == 2
        # Nor does js-libp2p from us.
        message = KadMessage(type=KadType.PUT_VALUE, key=key, record=Record(key=key, value=bytes.fromhex(values[0])))
        with pytest.raises(QuiverError):
            await met.near.membership.kad.rpc(peer_id_of(met.other), KAD_SPEC, message, timeout_s=5)

    run(story())
