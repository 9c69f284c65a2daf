"""Scopes of streams, token buckets, address groups: plain counting, and that the books of all scopes agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quiver.quic import rate
from quiver.quic.limits import Bound, NodeLimits, Quota, Refusal, address_groups
from quiver.quic.rate import Bucket, Buckets, Rate

PING = "/ipfs/ping/1.0.0"
SMALL = NodeLimits(
    streams=Bound(incoming=9, outgoing=9, total=12),
    streams_per_peer=Bound(incoming=4, outgoing=4, total=6),
    streams_per_protocol=Bound(incoming=6, outgoing=6, total=8),
    streams_per_protocol_and_peer=Bound(incoming=3, outgoing=3, total=4),
)


def entered(quota, peer, protocol, count, *, is_incoming=True):
    return [quota.scope(peer, protocol).enter(is_incoming=is_incoming) for _ in range(count)]


def test_each_scope_says_which_bound_is_reached():
    quota = Quota(SMALL)
    assert entered(quota, b"1", "/x", 4) == [None] * 3 + [Refusal.STREAMS_PER_PROTOCOL_AND_PEER]
    assert entered(quota, b"1", "/y", 2) == [None, Refusal.STREAMS_PER_PEER]
    assert entered(quota, b"2", "/x", 4) == [None] * 3 + [Refusal.STREAMS_PER_PROTOCOL_AND_PEER]
    assert entered(quota, b"3", "/x", 1) == [Refusal.STREAMS_PER_PROTOCOL]
    assert entered(quota, b"3", "/y", 3) == [None, None, Refusal.STREAMS]
    quota.validate()


def test_both_directions_together_have_a_bound_of_their_own():
    quota = Quota(SMALL)
    assert entered(quota, b"1", "/x", 3) == [None] * 3
    assert entered(quota, b"1", "/x", 2, is_incoming=False) == [None, Refusal.STREAMS_PER_PROTOCOL_AND_PEER]


def test_ping_has_a_bound_of_its_own():
    assert entered(Quota(), b"1", PING, 3) == [None, None, Refusal.STREAMS_PER_PROTOCOL_AND_PEER]


def test_a_peer_that_left_is_forgotten_when_its_last_stream_ends():
    quota = Quota(SMALL)
    scope = quota.scope(b"1", "/x")
    scope.enter(is_incoming=True)
    quota.forget(b"1")
    assert quota.scope(b"1", "/x") is scope
    scope.leave_incoming()
    quota.forget(b"1")
    assert quota.scope(b"1", "/x") is not scope


class Streams(RuleBasedStateMachine):
    """Streams come and go in any order; no scope ever holds more than its bound, and all agree."""

    def __init__(self):
        super().__init__()
        self.quota, self.open = Quota(SMALL), []

    @rule(
        peer=st.sampled_from([b"1", b"2", b"3"]),
        protocol=st.sampled_from(["/x", "/y", PING]),
        is_incoming=st.booleans(),
    )
    def enter(self, peer, protocol, is_incoming):
        scope = self.quota.scope(peer, protocol)
        if scope.enter(is_incoming=is_incoming) is None:
            self.open.append((peer, protocol, is_incoming, scope))

    @rule(which=st.integers(0, 20))
    def leave(self, which):
        if self.open:
            *_, is_incoming, scope = self.open.pop(which % len(self.open))
            scope.leave_incoming() if is_incoming else scope.leave_outgoing()

    @rule(peer=st.sampled_from([b"1", b"2", b"3"]))
    def forget(self, peer):
        self.quota.forget(peer)

    @invariant()
    def bounds_hold(self):
        self.quota.validate()
        assert sum(self.quota.streams_open) == len(self.open) <= 12
        for peer in (b"1", b"2", b"3"):
            assert sum(one[0] == peer for one in self.open) <= 6


TestStreams = Streams.TestCase


def test_a_bucket_gives_its_burst_and_then_its_rate():
    bucket = Bucket(Rate(burst=3, per_s=2.0), now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(100.5) for _ in range(2)] == [True, False]
    assert [bucket.take(900.0) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(0, 2), max_size=60))
def test_no_bucket_gives_more_than_burst_and_rate_allow(waits):
    bucket, now, given_tokens = Bucket(Rate(burst=3, per_s=2.0), now=0.0), 0.0, 0
    for wait in waits:
        now += wait
        given_tokens += bucket.take(now)
        assert given_tokens <= 3 + 2.0 * now + 1e-6


def test_buckets_are_bounded_and_the_one_used_longest_ago_is_forgotten(monkeypatch):
    monkeypatch.setattr(rate, "BUCKETS_MAX", 2)
    buckets = Buckets(Rate(burst=1, per_s=0.001))
    assert [buckets.take(key, 0.0) for key in "aba"] == [True, True, False]
    assert buckets.take("c", 0.0) and len(buckets) == 2
    # "b" was forgotten, "a" not.
    assert not buckets.take("a", 0.0) and buckets.take("b", 0.0)


@pytest.mark.parametrize(
    ("host", "groups"),
    [
        ("127.0.0.1", ()),
        ("::1", ()),
        ("::ffff:127.0.0.1", ()),
        ("192.0.2.7", ("192.0.2.7",)),
        ("::ffff:192.0.2.7", ("192.0.2.7",)),
        ("2001:db8:1:2ff::1", ("2001:db8:1:200::/56", "2001:db8:1::/48")),
    ],
)
def test_address_groups(host, groups):
    assert address_groups(host) == groups
