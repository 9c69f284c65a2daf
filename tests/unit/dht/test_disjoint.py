"""Disjoint paths: nobody is asked twice, and liars on one path leave the others alone. `Params.minimal()`: k 3, alpha 2."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.dht.disjoint import DisjointLookup
from quiver.dht.distance import KEYS
from quiver.dht.lookup import Lookup
from quiver.ids import PeerId
from quiver.params import Params
from tests.examples import examples
from tests.unit.dht.world import World, peer

TWO = msgspec.structs.replace(Params.minimal(), disjoint_paths=2)
ME = PeerId(b"me")


def nearest_to(target, numbers):
    return sorted(map(peer, numbers), key=lambda info: KEYS[info.peer_id] ^ target)


def run(lookup, answer_of):
    """Ask one after the other until it is done; who was asked, in order."""
    asked = []
    # `next` also drops whom another path has asked, so it comes before `done`.
    while (who := lookup.next(0.0)) is not None:
        asked.append(who)
        answer = answer_of(who)
        if answer is None:
            lookup.on_failure(who, 0.0)
        else:
            lookup.on_success(who, answer, 0.0)
        lookup.validate()
    assert lookup.done
    return asked


def test_known_peers_are_dealt_to_the_paths_and_each_is_asked_once():
    target = KEYS[b"target"]
    near = nearest_to(target, range(12))
    place = {info.peer_id: number for number, info in enumerate(near)}
    lookup = DisjointLookup(target, near[:2], own=ME, params=TWO)
    # Each names the three behind it: 0, 2, 4 end one path, 1, 3, 5 the other.
    asked = run(lookup, lambda who: near[place[who] + 1 : place[who] + 4])
    assert sorted(place[who] for who in asked) == [0, 1, 2, 3, 4, 5] and lookup.asked == 6
    # k = 3 on each of two paths: the six nearest in all hold the record, three are the result.
    assert lookup.replicas == near[:6]
    assert lookup.result == near[:3]


def test_liars_that_fill_one_path_leave_an_honest_one():
    """Three liars nearer than anybody name each other and nobody else: with k = 3 they end a single path, but not two."""
    target = KEYS[b"target"]
    near = nearest_to(target, range(30))
    liars, honest = near[:3], near[3:]
    known = [honest[-1], honest[-2]]
    liar_ids = {info.peer_id for info in liars}

    def answer_of(who):
        return (
            liars if who in liar_ids else [*liars, *honest[:6]][:3] if who in {i.peer_id for i in known} else honest[:3]
        )

    single = Lookup(target, known, own=ME, params=Params.minimal())
    run(single, answer_of)
    assert set(single.replicas) == set(liars)
    double = DisjointLookup(target, known, own=ME, params=TWO)
    run(double, answer_of)
    assert set(double.replicas) - set(liars)


def test_the_target_itself_ends_all_paths():
    target_info = peer(7)
    target = KEYS[target_info.peer_id]
    others = nearest_to(target, range(6))
    lookup = DisjointLookup(target, [*others, target_info], own=ME, params=TWO)
    who = lookup.next(0.0)
    assert who == target_info.peer_id
    lookup.on_success(who, others, 0.0)
    assert lookup.found and lookup.done and lookup.result == [target_info] and lookup.hops == 1
    assert lookup.next(0.0) is None


def test_with_nobody_to_ask_it_is_done():
    lookup = DisjointLookup(KEYS[b"t"], [], own=ME, params=TWO)
    assert lookup.next(0.0) is None and lookup.done and not lookup.idle
    assert lookup.result == [] and lookup.hops == 0 and not lookup.found


@settings(max_examples=examples(60), deadline=None)
@given(
    paths=st.integers(2, 5),
    count=st.integers(5, 60),
    silent=st.sets(st.integers(1, 59), max_size=10),
    key=st.binary(min_size=1, max_size=4),
)
def test_where_everyone_knows_everyone_the_result_is_that_of_one_path(paths, count, silent, key):
    target, params = KEYS[key], msgspec.structs.replace(Params.minimal(), disjoint_paths=paths)
    dead = {peer(number).peer_id for number in silent}
    alive = [info for info in nearest_to(target, range(count)) if info.peer_id not in dead]
    lookup = DisjointLookup(target, map(peer, range(count)), own=ME, params=params)
    run(lookup, lambda who: None if who in dead else alive)
    assert lookup.result == alive[:3]
    replicas = [info.peer_id for info in lookup.replicas]
    assert len(set(replicas)) == len(replicas) <= 3 * paths and replicas[:3] == [info.peer_id for info in alive[:3]]


def test_a_network_with_disjoint_paths_finds_what_was_stored():
    world = World(30, params=msgspec.structs.replace(Params.minimal(), disjoint_paths=3, alpha=3))

    async def story():
        await world.join_all()
        assert await world.services[5].provide(b"model") > 3
        for number in range(30):
            assert await world.services[number].find_providers(b"model") == [world.info(5)]
            if number != 8:
                assert (await world.services[number].find_node(world.info(8).peer_id))[0] == world.info(8)

    world.run(story)
