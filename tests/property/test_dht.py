"""Tables and lookups against the plain definition: sort everybody by XOR distance."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.dht.distance import KEYS
from quiver.dht.lookup import Lookup
from quiver.dht.record import RecordStore
from quiver.dht.routing_table import RoutingTable
from quiver.ids import PeerId
from quiver.params import Params
from tests.examples import examples
from tests.unit.dht.world import peer

PARAMS = Params.minimal()
NUMBERS = st.integers(0, 300)
STEPS = st.lists(st.tuples(st.sampled_from(["seen", "seen", "seen", "failed"]), NUMBERS), max_size=200)


def by_distance(infos, target):
    return sorted(infos, key=lambda info: KEYS[info.peer_id] ^ target)


@settings(max_examples=examples(150), deadline=None)
@given(steps=STEPS, k=st.sampled_from([1, 3, 20]), key=st.binary(min_size=1, max_size=4), n=st.integers(1, 30))
def test_closest_is_exactly_the_nearest_of_the_table(steps, k, key, n):
    own = peer(0).peer_id
    table = RoutingTable(own, k)
    for step, number in steps:
        if step == "seen":
            table.on_seen(peer(number), 0.0)
            assert number == 0 or len(table) > 0
        else:
            table.on_failed(peer(number).peer_id)
            assert k > 1 or peer(number).peer_id not in table or len(table) > 0
    table.validate()
    assert own not in table
    members = list(table)
    assert len(members) == len(table)
    for target in (KEYS[key], KEYS[own], *(KEYS[info.peer_id] for info in members[:3])):
        expected = by_distance(members, target)[:n]
        found = table.closest(target, n)
        assert by_distance(found, target) == expected
        assert table.closest(target, n) == found


@settings(max_examples=examples(100), deadline=None)
@given(
    answers=st.lists(st.tuples(st.booleans(), st.lists(NUMBERS, max_size=5), st.floats(0, 0.6)), max_size=60),
    known=st.lists(NUMBERS, min_size=1, max_size=8),
    width=st.sampled_from([1, 3]),
)
def test_a_lookup_ends_with_the_nearest_that_answered(answers, known, width):
    """Whatever peers say, and however slowly: it ends, and nobody nearer who would have answered was left out."""
    target, now = KEYS[b"t"], 0.0
    lookup = Lookup(target, map(peer, known), own=PeerId(b"me"), params=PARAMS, width=width)
    opened, answered, heard, script = [], [], {peer(number).peer_id for number in known}, iter(answers)
    for _ in range(10_000):
        while (asked := lookup.next(now)) is not None:
            assert asked in heard and asked not in [who for who, _ in opened] and asked not in answered
            opened.append((asked, now))
        lookup.validate()
        if lookup.done:
            break
        who, asked_at = opened.pop(0)
        succeeds, closer, delay = next(script, (True, [], 0.0))
        now += delay
        if succeeds and now <= asked_at + PARAMS.rpc_timeout_s:
            answered.append(who)
            lookup.on_success(who, [peer(number) for number in closer], now)
            heard |= {peer(number).peer_id for number in closer[: PARAMS.k]}
        else:
            lookup.on_failure(who, now)
    assert lookup.done
    assert [info.peer_id for info in lookup.result] == sorted(answered, key=lambda who: KEYS[who] ^ target)[: PARAMS.k]


@settings(max_examples=examples(60), deadline=None)
@given(count=st.integers(5, 60), silent=st.sets(st.integers(1, 59), max_size=10), key=st.binary(min_size=1, max_size=4))
def test_where_everyone_knows_everyone_a_lookup_finds_the_k_nearest_alive(count, silent, key):
    target = KEYS[key]
    infos = [peer(number) for number in range(count)]
    dead = {peer(number).peer_id for number in silent}
    alive = [info for info in infos if info.peer_id not in dead]
    lookup = Lookup(target, [infos[0]], own=PeerId(b"me"), params=PARAMS)
    nearest_alive = by_distance(alive, target)
    while not lookup.done:
        asked = lookup.next(0.0)
        if asked in dead:
            lookup.on_failure(asked, 0.0)
        else:
            lookup.on_success(asked, nearest_alive[:3], 0.0)
    assert lookup.result == nearest_alive[:3]


@settings(max_examples=examples(100), deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 12), st.floats(0, 4)), max_size=80),
    ask=st.integers(0, 20),
)
def test_records_are_those_renewed_within_their_lease(steps, ask):
    store, now, model = RecordStore(PARAMS), 0.0, {}
    for key, number, delay in steps:
        now += delay
        if store.add(b"%d" % key, peer(number), now):
            model[key, number] = now + PARAMS.lease_s
        else:
            live = [end for end in model.values() if end > now]
            of_key = [end for (other, _), end in model.items() if other == key and end > now]
            keys = {other for (other, _), end in model.items() if end > now}
            assert live and (len(of_key) == PARAMS.records_per_key_max or len(keys) == PARAMS.record_keys_max)
    store.expire(now)
    store.validate()
    expected = {peer(number).peer_id for (key, number), end in model.items() if key == ask and end > now}
    answer = {info.peer_id for info in store.providers(b"%d" % ask, now, random.Random(1))}
    assert answer <= expected
    assert len(answer) == min(len(expected), PARAMS.provider_peers_max)
