"""Groups of addresses, and buckets that take two peers of each."""

import pytest

from quiver.dht.address_group import groups_of, has_room
from quiver.dht.distance import KEYS
from quiver.dht.kbucket import KBucket
from quiver.ids import PeerId
from quiver.values.peer import PeerInfo
from quiver.wire import multiaddr

K = 3


def at(number, *texts):
    return PeerInfo(peer_id=PeerId(b"peer %d" % number), addresses=tuple(map(multiaddr.from_text, texts)))


def v4(number, host):
    return at(number, f"/ip4/{host}/udp/4001/quic-v1")


def seen(bucket, info):
    return bucket.on_seen(KEYS[info.peer_id], info, K)


@pytest.mark.parametrize(
    ("texts", "groups"),
    [
        (["/ip4/8.8.4.4/udp/1/quic-v1", "/ip4/8.8.4.99/tcp/2"], 1),
        (["/ip4/8.8.4.4/udp/1/quic-v1", "/ip4/8.8.5.4/udp/1/quic-v1"], 2),
        (["/ip6/2606:4700:1:2::1/udp/1/quic-v1", "/ip6/2606:4700:1:ffff::1/udp/1/quic-v1"], 1),
        (["/ip6/2606:4700:1::1/udp/1/quic-v1", "/ip6/2606:4700:2::1/udp/1/quic-v1"], 2),
        (["/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/192.168.1.1/udp/1/quic-v1", "/ip4/10.0.0.1/tcp/1"], 0),
        (["/ip6/::1/udp/1/quic-v1", "/ip6/fe80::1/udp/1/quic-v1", "/ip6/fd00::1/tcp/1"], 0),
        (["/dns4/example.org/udp/1/quic-v1"], 0),
        ([], 0),
    ],
)
def test_a_group_is_a_public_v4_24_or_v6_48(texts, groups):
    assert len(groups_of(at(1, *texts).addresses)) == groups


def test_an_address_nobody_can_read_has_no_group():
    assert groups_of((b"\xff\xff\xff", b"")) == frozenset()


def test_a_bucket_takes_two_of_a_group_and_any_number_without_one():
    bucket = KBucket()
    for number in range(3):
        seen(bucket, v4(number, f"8.8.8.{number}"))
    assert bucket.peers == [v4(0, "8.8.8.0"), v4(1, "8.8.8.1")] and not bucket.spares
    local = KBucket()
    for number in range(3):
        seen(local, v4(number, "127.0.0.1"))
    assert len(local.peers) == 3


def test_one_address_in_a_full_group_is_enough_to_be_refused():
    peers = [v4(0, "8.8.8.0"), v4(1, "8.8.8.1")]
    assert not has_room(peers, at(2, "/ip4/1.1.1.1/tcp/1", "/ip4/8.8.8.9/tcp/1"))
    assert has_room(peers, v4(2, "8.8.9.1"))


def test_a_peer_cannot_move_into_a_full_group_but_stays_with_its_old_address():
    bucket = KBucket()
    for info in (v4(0, "8.8.8.0"), v4(1, "8.8.8.1"), v4(2, "1.1.1.1")):
        seen(bucket, info)
    seen(bucket, v4(2, "8.8.8.2"))
    assert bucket.peers[-1] == v4(2, "1.1.1.1")
    seen(bucket, v4(1, "8.8.8.77"))
    assert bucket.peers[-1] == v4(1, "8.8.8.77")
    bucket.validate(K)


def test_spares_of_a_full_group_wait_until_one_of_the_group_fails():
    bucket = KBucket()
    for info in (v4(0, "8.8.8.0"), v4(1, "8.8.8.1"), v4(2, "1.1.1.1")):
        seen(bucket, info)
    assert not seen(bucket, v4(3, "8.8.8.3"))
    failed = v4(2, "1.1.1.1")
    bucket.on_failed(KEYS[failed.peer_id], failed.peer_id)
    assert len(bucket.peers) == 2 and bucket.spares == [v4(3, "8.8.8.3")]
    failed = v4(0, "8.8.8.0")
    bucket.on_failed(KEYS[failed.peer_id], failed.peer_id)
    assert bucket.peers == [v4(1, "8.8.8.1"), v4(3, "8.8.8.3")] and bucket.spares == []
    bucket.validate(K)


def test_one_group_cannot_fill_the_waiting_room():
    bucket = KBucket()
    for number in range(K):
        seen(bucket, v4(number, f"1.1.{number}.1"))
    honest = v4(10, "9.9.9.9")
    seen(bucket, honest)
    for number in range(20, 30):
        seen(bucket, v4(number, f"8.8.8.{number}"))
    assert bucket.spares == [honest, v4(20, "8.8.8.20"), v4(21, "8.8.8.21")]
