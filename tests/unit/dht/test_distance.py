"""The keyspace: SHA-256, XOR, prefixes, and keys made to fall into a bucket."""

import random

import pytest

from quiver.dht.distance import (
    KEY_BITS,
    KEYS,
    REFRESH_BITS,
    Keyspace,
    compute_common_prefix_length,
    compute_distance,
    find_key_in_bucket,
)


def test_a_key_is_the_sha_256_of_its_bytes():
    # FIPS 180-2, appendix B.1.
    assert KEYS[b"abc"] == 0xBA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD


def test_distance_is_the_xor_of_two_keys():
    assert compute_distance(b"abc", b"abc") == 0
    assert compute_distance(b"abc", b"abd") == KEYS[b"abc"] ^ KEYS[b"abd"] == compute_distance(b"abd", b"abc")


@pytest.mark.parametrize(
    ("one", "two", "length"),
    [(0, 0, 256), (0, 1, 255), (0, 1 << 255, 0), (0b11 << 254, 0b10 << 254, 1), (0b1010 << 252, 0b1011 << 252, 3)],
)
def test_common_prefix_length_counts_equal_leading_bits(one, two, length):
    assert compute_common_prefix_length(one, two) == length


def test_the_memo_forgets_everything_at_its_limit(monkeypatch):
    monkeypatch.setattr("quiver.dht.distance.KEYS_MAX", 2)
    keys = Keyspace()
    for data in (b"a", b"b", b"c"):
        assert keys[data] == KEYS[data]
    assert list(keys) == [b"c"]


def test_a_refresh_key_falls_into_its_bucket():
    rng = random.Random(1)
    for own in (0, (1 << KEY_BITS) - 1, KEYS[b"me"]):
        for index in range(REFRESH_BITS):
            key = find_key_in_bucket(own, index, rng)
            assert compute_common_prefix_length(own, KEYS[key]) == index


def test_refresh_keys_of_one_bucket_differ():
    rng = random.Random(1)
    assert len({find_key_in_bucket(0, 0, rng) for _ in range(20)}) > 15


@pytest.mark.parametrize("index", [-1, REFRESH_BITS])
def test_a_bucket_without_refresh_keys_is_refused(index):
    with pytest.raises(ValueError, match="look up the own id"):
        find_key_in_bucket(0, index, random.Random(1))
