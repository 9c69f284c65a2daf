"""Stores of the DHT that somebody fills: whoever holds as little as the newcomer would keeps its place, and everybody gets a share."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.dht import record, value_store
from quiver.dht.record import RecordStore
from quiver.dht.shares import Shares
from quiver.dht.value_store import ValueStore
from quiver.ids import PeerId
from quiver.params import Params
from quiver.values.kad import Record
from quiver.values.peer import PeerInfo
from tests.examples import examples

# 16 keys, 8 records a key, a lease of 10 s.
PARAMS = Params.minimal()
RECORDS_MAX = 24


@pytest.fixture(autouse=True)
def small_stores(monkeypatch):
    monkeypatch.setattr(record, "RECORDS_MAX", RECORDS_MAX)
    monkeypatch.setattr(value_store, "VALUES_MAX", 16)


def info(number):
    return PeerInfo(peer_id=PeerId(b"peer %d" % number))


def owners_of(store):
    """Owner -> its records."""
    found = {}
    for key, records in store._records.items():
        for peer, (_, _, place) in records.items():
            found.setdefault(place or peer, set()).add((key, peer))
    return found


@given(
    st.lists(
        st.tuples(
            st.integers(0, 30), st.integers(0, 12), st.sampled_from([None, None, "here", "there"]), st.floats(0, 0.5)
        ),
        max_size=120,
    ),
    st.integers(0, 119),
)
def test_a_newcomer_pushes_out_nobody_who_holds_as_little_as_it_would(steps, removed_at):
    store, now = RecordStore(PARAMS), 0.0
    for step, (key, peer, place, wait) in enumerate(steps):
        now += wait
        store.expire(now)
        if step == removed_at:
            store.remove(b"key %d" % key, info(peer).peer_id)
        before = owners_of(store)
        owner = place or info(peer).peer_id
        is_taken = store.add(b"key %d" % key, info(peer), now, place=place)
        after = owners_of(store)
        mine = len(before.get(owner, ()))
        for other, records in before.items():
            lost = records - after.get(other, set()) - {(b"key %d" % key, info(peer).peer_id)}
            # Under its own key a place may lose to one with fewer there, whatever either holds elsewhere.
            lost = {one for one in lost if one[0] != b"key %d" % key}
            assert not lost or (is_taken and other != owner and len(records) > mine + 1)
        assert ((b"key %d" % key, info(peer).peer_id) in after.get(owner, set())) == is_taken
        store.validate()


@settings(max_examples=examples(60))
@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=200, max_size=300),
    st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=7),
    st.randoms(use_true_random=False),
)
def test_a_flood_from_one_address_leaves_room_for_everybody_else(flood, honest, rng):
    """Of 16 keys the flood, however many peers it makes up, keeps what nobody else needs."""
    store = RecordStore(PARAMS)
    steps = [("flood", step) for step in flood] + [("honest", number) for number in honest]
    rng.shuffle(steps)
    for who, step in steps:
        if who == "flood":
            store.add(b"bogus %d" % step[0], info(1000 + step[1]), 0.0, place="192.0.2.1")
        else:
            assert store.add(b"model %d" % step, info(step), 0.0, place=f"198.51.100.{step}")
    store.validate()
    for number in honest:
        assert store.providers(b"model %d" % number, 1.0, random.Random(1)) == [info(number)]


def test_made_up_peers_of_one_address_give_way_under_a_key_that_is_full():
    store = RecordStore(PARAMS)
    assert store.add(b"model", info(0), 0.0, place="198.51.100.1")
    assert [store.add(b"model", info(n), 0.0, place="192.0.2.1") for n in range(1, 9)] == [True] * 7 + [False]
    for number in range(20, 26):
        assert store.add(b"model", info(number), 1.0, place=f"198.51.100.{number}")
    assert not store.add(b"model", info(26), 1.0, place="198.51.100.26")
    store.validate()
    kept = {one.peer_id for one in store._records[b"model"] and [held[1] for held in store._records[b"model"].values()]}
    assert kept == {info(n).peer_id for n in (0, 1, *range(20, 26))}


def test_a_key_that_others_share_does_not_go_with_its_heaviest_owner():
    store = RecordStore(PARAMS)
    store.add(b"shared", info(1), 0.0)
    for number in range(15):
        store.add(b"bogus %d" % number, info(9), 0.0)
    store.add(b"shared", info(9), 0.0)
    for number in range(20, 30):
        assert store.add(b"new %d" % number, info(number), 0.0)
    assert info(1) in store.providers(b"shared", 0.0, random.Random(1))
    store.validate()


def test_a_record_keeps_a_few_addresses_of_a_sane_length():
    store = RecordStore(PARAMS)
    many = PeerInfo(peer_id=PeerId(b"p"), addresses=(b"x" * 257, *(bytes([n]) for n in range(30))))
    store.add(b"key", many, 0.0)
    (kept,) = store.providers(b"key", 0.0, random.Random(1))
    assert kept.addresses == many.addresses[1:17]


class Anything:
    def check(self, key, value):
        """Any value is right."""

    def select(self, key, values):
        return 0


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=100))
def test_a_value_is_pushed_out_only_by_somebody_who_holds_less(steps):
    store = ValueStore({"x": Anything()})
    for number, who in steps:
        before = {key: owner for key, (_, _, owner) in store._held.items()}
        counts = {owner: list(before.values()).count(owner) for owner in {*before.values(), b"%d" % who}}
        store.put(Record(key=b"/x/%d" % number, value=b"v"), 0.0, owner=b"%d" % who)
        for key in before.keys() - store._held.keys():
            assert counts[before[key]] > counts[b"%d" % who] + 1
        store.validate()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.booleans()), max_size=80))
def test_shares_agree_with_sets(steps):
    shares, model = Shares(), {}
    for owner, item, is_added in steps:
        held = model.setdefault(b"%d" % owner, [])
        if is_added and item not in held:
            shares.add(b"%d" % owner, item)
            held.append(item)
        elif not is_added and item in held:
            shares.remove(b"%d" % owner, item)
            held.remove(item)
        elif item in held:
            shares.spare(b"%d" % owner, item)
            held.remove(item)
            held.insert(0, item)
        shares.validate()
        most = max(map(len, model.values()))
        assert (shares.heaviest() or (None, 0))[1] == most
        for name, items in model.items():
            assert shares.count(name) == len(items)
            assert not items or shares.newest(name) == items[-1]
