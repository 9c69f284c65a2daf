"""Provider records: leases and limits. `Params.minimal()`: lease 10 s, 16 keys, 8 records a key, answers of 4."""

import random

from quiver.dht.record import RecordStore
from quiver.params import Params
from tests.unit.dht.world import peer

PARAMS = Params.minimal()
RNG = random.Random(1)


def test_a_record_lives_for_its_lease():
    store = RecordStore(PARAMS)
    assert store.add(b"key", peer(1), now=0.0)
    assert store.providers(b"key", 9.9, RNG) == [peer(1)]
    assert store.providers(b"key", 10.0, RNG) == []
    assert store.providers(b"other", 0.0, RNG) == []
    assert len(store) == 0


def test_renewal_prolongs_a_record():
    store = RecordStore(PARAMS)
    store.add(b"key", peer(1), now=0.0)
    store.add(b"key", peer(2), now=1.0)
    store.add(b"key", peer(1), now=5.0)
    store.validate()
    assert store.providers(b"key", 12.0, RNG) == [peer(1)]


def test_a_full_key_refuses_newcomers_until_a_lease_ends():
    store = RecordStore(PARAMS)
    for number in range(8):
        assert store.add(b"key", peer(number), now=float(number))
    assert not store.add(b"key", peer(8), now=9.0)
    assert store.add(b"key", peer(7), now=9.0)
    assert store.add(b"key", peer(8), now=10.0)
    store.validate()
    assert len(store) == 8


def test_a_full_store_refuses_new_keys_until_a_lease_ends():
    store = RecordStore(PARAMS)
    for number in range(16):
        assert store.add(b"key %d" % number, peer(1), now=float(number) / 2)
    assert not store.add(b"key 16", peer(1), now=9.0)
    assert store.add(b"key 0", peer(2), now=9.0)
    assert store.add(b"key 16", peer(1), now=10.5)
    store.validate()


def test_an_answer_is_a_random_part_of_many_records():
    store = RecordStore(PARAMS)
    for number in range(8):
        store.add(b"key", peer(number), now=0.0)
    seen = set()
    for _ in range(50):
        answer = store.providers(b"key", 1.0, RNG)
        assert len({info.peer_id for info in answer}) == 4
        seen |= {info.peer_id for info in answer}
    assert len(seen) == 8


def test_expire_drops_only_what_has_ended():
    store = RecordStore(PARAMS)
    store.add(b"old", peer(1), now=0.0)
    store.add(b"mixed", peer(1), now=0.0)
    store.add(b"mixed", peer(2), now=5.0)
    store.expire(11.0)
    store.validate()
    assert store.providers(b"mixed", 11.0, RNG) == [peer(2)]
    assert len(store) == 1


def test_a_full_store_looks_through_all_it_holds_only_when_a_lease_may_have_ended(monkeypatch):
    store, looks, expire = RecordStore(PARAMS), [], RecordStore.expire
    monkeypatch.setattr(RecordStore, "expire", lambda self, now: looks.append(now) or expire(self, now))
    for number in range(16):
        store.add(b"key %d" % number, peer(1), now=float(number) / 2)
    assert not any(store.add(b"bogus %d" % number, peer(1), now=8.0) for number in range(1000))
    assert looks == [8.0]
    assert store.add(b"another", peer(1), now=10.0) and looks == [8.0, 10.0]
    store.validate()
