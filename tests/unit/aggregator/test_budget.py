"""What an asker may cost: 32 units a second for a provider we know, 256 at once; all strangers share one budget of 128 a second."""

from __future__ import annotations

import pytest

from quiver.aggregator.budget import PEERS_MAX, Budget
from quiver.errors import PeerError, WireCode


def test_a_known_provider_may_ask_256_at_once_and_then_waits():
    budget = Budget()
    assert [budget.take(b"a", 64, known=True, now=10.0) for _ in range(5)] == [0, 0, 0, 0, 2.0]
    assert budget.take(b"b", 256, known=True, now=10.0) == 0
    assert budget.take(b"a", 32, known=True, now=12.0) == 1.0
    assert budget.take(b"a", 32, known=True, now=13.0) == 1.0
    assert budget.take(b"a", 32, known=True, now=100.0) == 0


def test_who_would_wait_more_than_five_seconds_is_refused_and_owes_nothing_for_it():
    budget = Budget()
    assert budget.take(b"a", 256 + 160, known=True, now=0.0) == 5.0
    with pytest.raises(PeerError) as caught:
        budget.take(b"a", 1, known=True, now=0.0)
    assert caught.value.wire_code == WireCode.RATE_LIMITED
    assert budget.take(b"a", 32, known=True, now=1.0) == 5.0


def test_a_thousand_new_peer_ids_get_no_more_than_one():
    budget = Budget()
    waits = [budget.take(bytes([n]), 8, known=False, now=0.0) for n in range(64)]
    assert waits[:32] == [0] * 32 and waits[-1] == 2.0
    assert len(budget) == 1


def test_memory_is_bounded():
    budget = Budget()
    for number in range(PEERS_MAX + 10):
        budget.take(number.to_bytes(4, "big"), 1, known=True, now=0.0)
    assert len(budget) == PEERS_MAX
