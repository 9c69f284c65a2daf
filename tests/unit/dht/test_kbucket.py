"""One bucket: oldest live peers stay, newcomers wait."""

from quiver.dht.distance import KEYS
from quiver.dht.kbucket import SPARES_MAX, KBucket
from quiver.values.peer import PeerInfo
from tests.unit.dht.world import peer

K = 3


def bucket_of(*numbers):
    bucket = KBucket()
    for number in numbers:
        see(bucket, number)
    return bucket


def see(bucket, number, info=None):
    info = info or peer(number)
    bucket.on_seen(KEYS[info.peer_id], info, K)
    bucket.validate(K)


def fail(bucket, number):
    bucket.on_failed(KEYS[peer(number).peer_id], peer(number).peer_id)
    bucket.validate(K)


def numbers(infos):
    return [int(info.peer_id.split()[1]) for info in infos or ()]


def test_peers_are_ordered_least_recently_seen_first():
    bucket = bucket_of(1, 2, 3)
    see(bucket, 1)
    assert numbers(bucket.peers) == [2, 3, 1]
    see(bucket, 1)
    assert numbers(bucket.peers) == [2, 3, 1]


def test_a_full_bucket_keeps_its_peers_and_remembers_the_newest_spares():
    bucket = bucket_of(1, 2, 3, *range(10, 16))
    assert numbers(bucket.peers) == [1, 2, 3]
    assert numbers(bucket.spares) == [12, 13, 14, 15]
    assert len(bucket.spares) == SPARES_MAX


def test_a_spare_seen_again_is_the_newest():
    bucket = bucket_of(1, 2, 3, 10, 11, 10)
    assert numbers(bucket.spares) == [11, 10]


def test_a_failed_peer_is_replaced_by_the_newest_spare():
    bucket = bucket_of(1, 2, 3, 10, 11)
    fail(bucket, 2)
    assert numbers(bucket.peers) == [1, 3, 11]
    assert numbers(bucket.spares) == [10]


def test_a_failed_peer_without_spares_leaves_room():
    bucket = bucket_of(1, 2)
    fail(bucket, 1)
    fail(bucket, 1)
    assert numbers(bucket.peers) == [2]


def test_a_failed_spare_is_forgotten():
    bucket = bucket_of(1, 2, 3, 10, 11)
    fail(bucket, 11)
    assert numbers(bucket.peers) == [1, 2, 3]
    assert numbers(bucket.spares) == [10]


def test_new_addresses_replace_old_ones_but_none_do_not():
    old, new = (PeerInfo(peer_id=peer(1).peer_id, addresses=(text,)) for text in (b"old", b"new"))
    bucket = KBucket()
    for info, addresses in ((old, b"old"), (new, b"new"), (peer(1), b"new")):
        see(bucket, 1, info)
        assert bucket.peers[0].addresses == (addresses,)
