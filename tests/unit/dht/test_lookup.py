"""The lookup by hand. `Params.minimal()`: k 3, alpha 2, questions time out after 1 s."""

from quiver.dht.distance import KEYS
from quiver.dht.lookup import QUESTIONS_PER_K, Lookup
from quiver.ids import PeerId
from quiver.params import Params
from quiver.values.peer import PeerInfo
from tests.unit.dht.test_address_group import at
from tests.unit.dht.world import peer

PARAMS = Params.minimal()
ME = PeerId(b"me")
TARGET = KEYS[b"target"]
# Peers 0 to 59, nearest to the target first.
NEAR = sorted((peer(number) for number in range(60)), key=lambda info: KEYS[info.peer_id] ^ TARGET)
IDS = [info.peer_id for info in NEAR]


def lookup_of(*places, width=None):
    return Lookup(TARGET, [NEAR[place] for place in places], own=ME, params=PARAMS, width=width)


def answer(lookup, place, *closer, now=0.0):
    lookup.on_success(IDS[place], [NEAR[other] for other in closer], now)
    lookup.validate()


def test_the_nearest_are_asked_first_and_at_most_alpha_at_once():
    lookup = lookup_of(5, 2, 9)
    assert [lookup.next(0.0), lookup.next(0.0), lookup.next(0.0)] == [IDS[2], IDS[5], None]
    assert not lookup.done
    lookup.validate()


def test_an_answer_leads_nearer():
    lookup = lookup_of(9)
    assert lookup.next(0.0) == IDS[9]
    answer(lookup, 9, 7, 3, 9)
    assert lookup.info(lookup.next(0.0)) == NEAR[3]
    assert lookup.next(0.0) == IDS[7]


def test_it_ends_when_the_k_nearest_have_answered():
    lookup = lookup_of(0, 1, 2, 3)
    for place in (0, 1, 2):
        assert lookup.next(0.0) == IDS[place]
        answer(lookup, place, 0, 1, 2, 3)
    assert lookup.next(0.0) is None
    assert lookup.done
    assert lookup.result == NEAR[:3]
    assert (lookup.asked, lookup.hops, lookup.found) == (3, 1, False)


def test_a_narrow_lookup_ends_earlier():
    lookup = lookup_of(0, 1, 2, width=1)
    assert lookup.next(0.0) == IDS[0]
    answer(lookup, 0)
    assert lookup.next(0.0) is None
    assert lookup.done


def test_it_waits_for_an_open_question_that_could_matter_and_for_no_other():
    lookup = lookup_of(0, 1, width=1)
    assert [lookup.next(0.0), lookup.next(0.0)] == [IDS[0], IDS[1]]
    answer(lookup, 1)
    assert not lookup.done
    answer(lookup, 0)
    assert lookup.done

    lookup = lookup_of(0, 1, width=1)
    assert [lookup.next(0.0), lookup.next(0.0)] == [IDS[0], IDS[1]]
    answer(lookup, 0)
    assert lookup.done


def test_a_silent_peer_is_skipped_after_its_deadline():
    lookup = lookup_of(0, 1, 2)
    assert [lookup.next(0.0), lookup.next(0.0), lookup.next(0.9)] == [IDS[0], IDS[1], None]
    assert lookup.next(1.0) == IDS[2]
    answer(lookup, 0, 4, now=1.1)
    answer(lookup, 2, now=1.1)
    assert lookup.next(1.1) is None
    assert lookup.done
    assert lookup.result == [NEAR[2]]


def test_a_failed_peer_is_out_and_another_takes_its_place():
    lookup = lookup_of(0, 1, 2, 3)
    for place in (0, 1, 2, 3):
        assert lookup.next(0.0) == IDS[place]
        if place == 1:
            lookup.on_failure(IDS[1], 0.0)
        else:
            answer(lookup, place)
    assert lookup.next(0.0) is None
    assert lookup.result == [NEAR[0], NEAR[2], NEAR[3]]


def test_it_ends_at_once_when_the_peer_that_is_the_target_answers():
    lookup = Lookup(KEYS[IDS[7]], NEAR[:20], own=ME, params=PARAMS)
    assert lookup.next(0.0) == IDS[7]
    assert lookup.next(0.0) is not None
    lookup.on_success(IDS[7], NEAR[20:23], 0.0)
    assert lookup.next(0.0) is None
    assert lookup.done
    assert lookup.found
    assert lookup.result[0] == NEAR[7]


def test_hops_count_the_questions_that_led_to_the_nearest():
    lookup = lookup_of(9)
    for place, closer in ((9, [5]), (5, [1]), (1, [])):
        assert lookup.next(0.0) == IDS[place]
        answer(lookup, place, *closer)
    assert lookup.hops == 3


def test_it_never_asks_us_nor_anyone_twice():
    lookup = lookup_of(4)
    assert lookup.next(0.0) == IDS[4]
    lookup.on_success(IDS[4], [PeerInfo(peer_id=ME), NEAR[4]], 0.0)
    assert lookup.next(0.0) is None
    assert lookup.done


def test_of_an_answer_at_most_k_peers_are_taken():
    lookup = lookup_of(50)
    lookup.next(0.0)
    answer(lookup, 50, 10, 11, 12, 0)
    assert lookup.next(0.0) == IDS[10]


def test_liars_cannot_keep_a_lookup_alive():
    lookup = lookup_of(0)
    asked, fakes = 0, iter(range(1000, 10**6))
    while (asking := lookup.next(0.0)) is not None:
        asked += 1
        if asked % 2:
            lookup.on_success(asking, [peer(next(fakes)) for _ in range(3)], 0.0)
        else:
            lookup.on_failure(asking, 0.0)
    assert lookup.done
    assert asked <= QUESTIONS_PER_K * PARAMS.k


def test_a_lookup_that_knows_nobody_is_done():
    lookup = lookup_of()
    assert lookup.next(0.0) is None
    assert lookup.done
    assert lookup.result == []
    assert lookup.hops == 0


def test_a_stopped_lookup_is_done():
    lookup = lookup_of(0, 1, 2)
    lookup.next(0.0)
    lookup.stop()
    assert lookup.next(0.0) is None
    assert lookup.done


def test_a_crowd_of_one_address_group_cannot_end_a_lookup():
    """k 3: three peers of one /24 are nearest and answer, but only two of them count: it goes on to the honest."""
    target = KEYS[b"target"]
    numbers = sorted(range(40), key=lambda number: KEYS[peer(number).peer_id] ^ target)
    crowd = [at(number, f"/ip4/8.8.8.{number}/udp/1/quic-v1") for number in numbers[:10]]
    honest = [at(number, f"/ip4/1.1.{number}.1/udp/1/quic-v1") for number in numbers[10:]]

    def asked(first):
        lookup = Lookup(target, [*first, honest[-1]], own=ME, params=PARAMS)
        while (who := lookup.next(0.0)) is not None:
            lookup.on_success(who, honest[:3] if who == honest[-1].peer_id else crowd[:3], 0.0)
        assert lookup.done
        return lookup

    lookup = asked(crowd[:3])
    assert lookup.result == crowd[:3]
    assert lookup.replicas == [*crowd[:2], honest[0]]


def test_peers_of_one_loopback_are_no_crowd():
    target = KEYS[b"target"]
    numbers = sorted(range(9), key=lambda number: KEYS[peer(number).peer_id] ^ target)
    local = [at(number, f"/ip4/127.0.0.1/udp/{number + 1}/quic-v1") for number in numbers]
    lookup = Lookup(target, local, own=ME, params=PARAMS)
    while (who := lookup.next(0.0)) is not None:
        lookup.on_success(who, [], 0.0)
    assert lookup.asked == 3 and lookup.replicas == local[:3]
