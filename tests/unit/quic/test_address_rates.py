"""Attempts to connect by where they come from, with a clock by hand: whose tokens they take, what is forgotten, who is spared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiver.quic.address_rates import KNOWN_S, AddressRates, Known, Origin, Places, origin_of
from quiver.quic.limits import NodeLimits, Refusal
from quiver.quic.rate import UNLIMITED, Rate

SLOW = Rate(burst=2, per_s=1.0)


def rates(**changes):
    return AddressRates(NodeLimits(**{"connection_rate": SLOW, **changes}))


def attempts(door, host, count, now=0.0, *, is_validated=True):
    """What each attempt was told; True where it was let in."""
    return [door.take(host, now, is_validated=is_validated) or True for _ in range(count)]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("8.8.4.4", Origin("8.8.4.4", "8.8.4.0/24", False)),
        ("::ffff:8.8.4.4", Origin("8.8.4.4", "8.8.4.0/24", False)),
        ("2a00:1450:4001:81b:ffff::1", Origin("2a00:1450:4001:81b::/64", "2a00:1450:4001::/48", False)),
        ("10.1.2.3", Origin("10.1.2.3", None, False)),
        ("fe80::1%eth0", Origin("fe80::/64", None, False)),
        ("127.0.0.9", Origin("127.0.0.9", None, True)),
        ("::1", Origin("::1", None, True)),
    ],
)
def test_where_an_attempt_comes_from(host, origin):
    assert origin_of(host) == origin


def test_an_address_has_its_burst_and_then_its_rate_and_takes_nothing_of_its_neighbours():
    door = rates(network_rate=Rate(burst=4, per_s=1.0))
    assert attempts(door, "8.8.4.1", 50) == [True] * 2 + [Refusal.CONNECTION_RATE] * 48
    assert attempts(door, "8.8.4.2", 2) == [True] * 2
    assert attempts(door, "8.8.4.1", 2, now=1.0) == [True, Refusal.CONNECTION_RATE]


def test_an_ipv6_64_is_one_address():
    door = rates()
    assert attempts(door, "2a00:1:2:3::1", 1) + attempts(door, "2a00:1:2:3::2", 2) == [
        True, True, Refusal.CONNECTION_RATE,
    ]  # fmt: skip
    assert attempts(door, "2a00:1:2:4::1", 1) == [True]


@pytest.mark.parametrize("host", ["8.8.4.{}", "2a00:1:2:{}::1"])
def test_a_network_has_a_rate_whatever_the_number_of_its_addresses(host):
    door = rates(network_rate=Rate(burst=8, per_s=1.0))
    told = [attempts(door, host.format(n), 1)[0] for n in range(20)]
    assert told == [True] * 8 + [Refusal.NETWORK_RATE] * 12
    assert attempts(door, "9.9.9.9", 1) == attempts(door, "2a00:1:3::1", 1) == [True]


def test_a_private_network_has_no_rate_of_its_own_and_loopback_has_another():
    door = rates(network_rate=Rate(burst=1, per_s=1.0), loopback_rate=Rate(burst=5, per_s=1.0))
    assert [attempts(door, f"10.0.0.{n}", 2) for n in range(20)] == [[True, True]] * 20
    assert attempts(door, "127.0.0.1", 6) == [True] * 5 + [Refusal.CONNECTION_RATE]
    assert attempts(door, "127.0.0.2", 1) == [True]


def test_forty_nodes_of_a_devnet_that_all_dial_each_other_at_once_are_let_in():
    assert attempts(AddressRates(NodeLimits()), "127.0.0.1", 2 * 40) == [True] * 80


def test_who_forges_an_address_spends_nothing_of_whoever_owns_it():
    door = rates()
    assert attempts(door, "8.8.4.4", 3, is_validated=False) == [True, True, Refusal.CONNECTION_RATE]
    assert attempts(door, "8.8.4.4", 2) == [True, True]


def test_a_bucket_is_forgotten_when_it_is_full_again_and_not_before():
    places = Places(2)
    assert [places.take(key, SLOW, 0.0) for key in "aabb"] == [True] * 4
    # No place for a third: to forget either of them would give it two new tokens.
    assert places.take("c", SLOW, 0.5) is None and len(places) == 2
    assert places.take("a", SLOW, 1.0) is True and places.take("c", SLOW, 1.9) is None
    # "b" is full again at 2.0, "a" is not.
    assert places.take("c", SLOW, 2.0) is True and len(places) == 2
    assert [places.take("a", SLOW, 2.0) for _ in range(2)] == [True, False]


def test_an_idle_table_empties_itself():
    places = Places(1000)
    for n in range(1000):
        places.take(str(n), SLOW, 0.0)
    for _ in range(600):
        places.take("one", SLOW, 100.0)
    assert len(places) == 1


def test_while_too_many_addresses_try_strangers_share_one_bucket_and_known_peers_keep_theirs():
    door = rates(addresses_max=10, network_rate=Rate(burst=3, per_s=1.0))
    door.keep("9.9.9.9", 0.0)
    told = [attempts(door, f"{20 + n}.0.0.1", 1)[0] for n in range(100)]
    assert told == [True] * 13 + [Refusal.CROWD] * 87
    # The known one is there in the middle of it, as often as ever; so are the first ten strangers.
    assert attempts(door, "9.9.9.9", 3) == [True, True, Refusal.CONNECTION_RATE]
    assert attempts(door, "20.0.0.1", 2) == [True, Refusal.CONNECTION_RATE]
    assert attempts(door, "200.0.0.1", 1, now=2.0) == [True]


def test_a_flood_from_the_network_around_it_costs_a_known_peer_nothing():
    door = rates(network_rate=Rate(burst=4, per_s=1.0))
    door.keep("8.8.4.4", 0.0)
    assert [attempts(door, f"8.8.4.{n}", 1)[0] for n in range(10, 20)] == [True] * 4 + [Refusal.NETWORK_RATE] * 6
    assert attempts(door, "8.8.4.4", 2) == [True, True]


def test_a_known_address_is_forgotten_an_hour_after_its_peer_was_last_connected():
    known, one = Known(10), origin_of("8.8.4.4")
    known.keep(one, 0.0)
    known.keep(one, 1000.0)
    assert known.has(one, KNOWN_S + 999.0) and not known.has(one, KNOWN_S + 1000.0)


def test_an_attacker_with_many_proved_addresses_pushes_out_its_own():
    known, good = Known(8), [origin_of("9.9.9.9"), origin_of("2a00:1:2:3::1")]
    for one in good:
        known.keep(one, 0.0)
    for n in range(1, 200):
        known.keep(origin_of(f"8.8.4.{n}"), float(n))
        known.validate()
    assert all(known.has(one, 200.0) for one in good) and len(known) == 8
    # With as many networks as addresses it gets none at all: what is there stays.
    for n in range(1, 200):
        known.keep(origin_of(f"{n}.77.0.1"), 200.0)
        known.validate()
    assert all(known.has(one, 200.0) for one in good)


def test_a_rate_may_be_without_limit():
    door = rates(connection_rate=UNLIMITED, network_rate=UNLIMITED)
    assert attempts(door, "8.8.4.4", 5000) == [True] * 5000


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.floats(0, 3), st.booleans())))
def test_no_address_ever_gets_more_than_its_burst_and_rate_and_no_table_grows(story):
    door, now, let_in = rates(addresses_max=5, known_addresses_max=3), 0.0, {}
    for network, host, wait, has_proved in story:
        now += wait
        where = f"{20 + network}.0.0.{host}"
        if door.take(where, now, is_validated=True) is None:
            let_in[where] = let_in.get(where, 0) + 1
            # As a stranger and as a known one it has a bucket each; without a place it draws on everybody's.
            assert let_in[where] <= 2 * (SLOW.burst + SLOW.per_s * now) + 64 + 20 * now
            if has_proved:
                door.keep(where, now)
        door.validate()
        assert all(len(gate) <= 2 * 5 for gate in (door._claimed, door._strangers, door._friends))
