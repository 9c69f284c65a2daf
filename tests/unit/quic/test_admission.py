"""Who may connect, by hand: groups, rates, half-open links, and that a forged source address uses up nobody's room."""

from __future__ import annotations

import pytest

from quiver.quic.admission import Admission
from quiver.quic.limits import Bound, NodeLimits, Quota, Refusal
from quiver.quic.rate import Rate


class FakeLink:
    def __init__(self, host, *, is_dialled=False):
        self.address, self.is_dialled, self.closed = (host, 1), is_dialled, None

    def close(self, code, reason):
        self.closed = code


def admission(**changes):
    return Admission(Quota(NodeLimits(**changes)))


def come(door, host, *, now=0.0, is_validated=True):
    """One more from `host`: the link, or the refusal."""
    refusal = door.judge(host, now, is_validated=is_validated)
    if refusal is not None:
        return refusal
    link = FakeLink(host)
    door.add(link, now)
    return link


def test_an_address_group_gets_eight_and_one_that_leaves_makes_room():
    door = admission()
    links = [come(door, "192.0.2.1") for _ in range(8)]
    assert come(door, "192.0.2.1") is Refusal.CONNECTIONS_PER_GROUP
    assert isinstance(come(door, "192.0.2.2"), FakeLink)
    door.remove(links[0])
    assert isinstance(come(door, "192.0.2.1"), FakeLink)


def test_an_ipv6_site_gets_64_however_many_networks_it_has():
    door = admission()
    came = [come(door, f"2001:db8:1:{net:x}00::1") for net in range(66)]
    assert came[64:] == [Refusal.CONNECTIONS_PER_GROUP] * 2
    assert all(isinstance(one, FakeLink) for one in came[:64])


def test_loopback_has_no_group():
    door = admission(half_open_max=1000)
    assert all(isinstance(come(door, "127.0.0.1"), FakeLink) for _ in range(100))


def test_a_group_that_connects_too_often_must_slow_down():
    door = admission(connection_rate=Rate(burst=3, per_s=1.0))
    for _ in range(3):
        door.remove(come(door, "192.0.2.1"))
    assert come(door, "192.0.2.1") is Refusal.CONNECTION_RATE
    assert isinstance(come(door, "192.0.2.2"), FakeLink)
    assert isinstance(come(door, "192.0.2.1", now=1.0), FakeLink)


def test_who_forges_an_address_uses_up_half_of_its_room_and_none_of_its_rate():
    door = admission(connection_rate=Rate(burst=16, per_s=1.0))
    forged = [come(door, "192.0.2.1", is_validated=False) for _ in range(1000)]
    assert sum(isinstance(one, FakeLink) for one in forged) == 4
    assert set(forged[4:]) == {Refusal.RETRY}
    # The owner of the address shows that it is, and gets in.
    assert [isinstance(come(door, "192.0.2.1"), FakeLink) for _ in range(5)] == [True] * 4 + [False]


def test_an_empty_bucket_of_unvalidated_clients_asks_for_a_token():
    door = admission(connection_rate=Rate(burst=2, per_s=1.0))
    for _ in range(2):
        door.remove(come(door, "192.0.2.1", is_validated=False))
    assert come(door, "192.0.2.1", is_validated=False) is Refusal.RETRY
    assert isinstance(come(door, "192.0.2.1", is_validated=True), FakeLink)


def test_many_half_open_ones_make_everybody_show_a_token():
    door = admission(retry_threshold=3)
    links = [come(door, f"192.0.2.{n}", is_validated=False) for n in range(3)]
    assert come(door, "192.0.2.9", is_validated=False) is Refusal.RETRY
    assert isinstance(come(door, "192.0.2.9", is_validated=True), FakeLink)
    door.proved(links[0], 0.0)
    door.proved(links[1], 0.0)
    assert isinstance(come(door, "192.0.2.10", is_validated=False), FakeLink)


def test_when_half_open_links_fill_all_room_the_oldest_gives_way_unless_it_is_young():
    door = admission(half_open_max=3)
    oldest, *_ = [come(door, f"192.0.2.{n}", now=0.1 * n) for n in range(3)]
    assert come(door, "192.0.2.9", now=0.9) is Refusal.HALF_OPEN
    assert oldest.closed is None
    assert isinstance(come(door, "192.0.2.9", now=1.0), FakeLink)
    assert oldest.closed == 0x1001 and door.half_open == 3


@pytest.mark.parametrize("is_dialled", [False, True])
def test_peers_cannot_take_the_room_that_our_own_dials_need(is_dialled):
    door = admission(connections=Bound(incoming=3, outgoing=2, total=4))
    links = [come(door, f"192.0.2.{n}") for n in range(3)]
    assert come(door, "192.0.2.9") is Refusal.CONNECTIONS
    assert door.has_room_to_dial()
    door.add(FakeLink("192.0.2.20", is_dialled=True), 0.0)
    assert not door.has_room_to_dial()
    door.remove(links[0])
    assert door.has_room_to_dial() and isinstance(come(door, "192.0.2.9"), FakeLink)


def test_every_refusal_is_counted_by_kind():
    door = admission(half_open_max=2, connections_per_group_max=1)
    come(door, "192.0.2.1"), come(door, "192.0.2.1"), come(door, "192.0.2.2"), come(door, "192.0.2.3")
    door.closed(come(door, "192.0.2.4", now=5.0))
    assert door._quota.refused == {
        Refusal.CONNECTIONS_PER_GROUP: 1, Refusal.HALF_OPEN: 2, Refusal.HANDSHAKE: 1,
    }  # fmt: skip
