"""What an operator allows its gateway to lock, by hand: deposits of 1,000 credits."""

from __future__ import annotations

import pytest

from quiver.errors import UsageError
from quiver.gateway.topup import TABLE, Locked, TopUpPolicy
from tests.property.test_receipts import Disk

MONDAY, TUESDAY = 20_000, 20_001


def find(policy, amount, *, balance, locked=None, day=MONDAY):
    return policy.find_obstacle(amount, balance=balance, locked=locked or Locked(), day=day)


def test_a_channel_is_low_below_its_share_of_a_deposit():
    policy = TopUpPolicy(low_share=0.3)
    assert not policy.is_low(300, deposit=1_000) and policy.is_low(299, deposit=1_000)
    assert not TopUpPolicy(low_share=0.0).is_low(0, deposit=1_000), "never"


def test_a_top_up_is_a_deposit_unless_it_is_told():
    assert TopUpPolicy().compute_amount(deposit=1_000) == 1_000
    assert TopUpPolicy(amount=250).compute_amount(deposit=1_000) == 250


def test_the_floor_is_never_touched_not_even_by_what_the_balance_does_not_show_yet():
    policy, locked = TopUpPolicy(balance_floor=500), Locked()
    assert find(policy, 1_000, balance=1_500) is None
    assert "of 1499 free ones 500 must stay" in find(policy, 1_000, balance=1_499)
    locked.on_asked(600, day=MONDAY)
    assert find(policy, 400, balance=1_500, locked=locked) is None
    assert "of 900 free ones" in find(policy, 401, balance=1_500, locked=locked)
    locked.on_done(600)
    # The ledger's balance shows it now.
    assert find(policy, 400, balance=900, locked=locked) is None


def test_a_day_has_its_limit_and_the_next_one_its_own():
    policy, locked = TopUpPolicy(daily_max_credits=2_500), Locked()
    for _ in range(2):
        assert find(policy, 1_000, balance=10_000, locked=locked) is None
        locked.on_asked(1_000, day=MONDAY)
        locked.on_done(1_000)
    assert "2000 were today already, at most 2500" in find(policy, 1_000, balance=8_000, locked=locked)
    assert find(policy, 500, balance=8_000, locked=locked) is None
    assert find(policy, 1_000, balance=8_000, locked=locked, day=TUESDAY) is None
    locked.on_asked(1_000, day=TUESDAY)
    assert (locked.day, locked.credits) == (TUESDAY, 1_000)


def test_a_clock_that_goes_back_begins_no_day_again():
    policy, locked = TopUpPolicy(daily_max_credits=1_000), Locked()
    locked.on_asked(1_000, day=TUESDAY)
    assert "1000 were today already" in find(policy, 1, balance=9_000, locked=locked, day=MONDAY)


def test_what_the_ledger_refused_counts_no_more_but_not_against_another_day():
    locked = Locked()
    locked.on_asked(700, day=MONDAY)
    locked.on_refused(700, day=MONDAY)
    assert (locked.credits, locked.under_way) == (0, 0)
    locked.on_asked(700, day=MONDAY)
    locked.on_asked(300, day=TUESDAY)
    locked.on_refused(700, day=MONDAY)
    assert (locked.credits, locked.under_way) == (300, 300)
    locked.validate()


def test_what_was_asked_for_today_survives_a_crash_and_what_is_under_way_does_not():
    disk, locked = Disk(), Locked()
    disk.put(locked.on_asked(700, day=MONDAY))
    again = Locked.load(disk)
    assert (again.day, again.credits, again.under_way) == (MONDAY, 700, 0)
    assert [table for table, _, _ in locked.on_refused(700, day=MONDAY)] == [TABLE]


@pytest.mark.parametrize(
    "broken",
    [{"low_share": 1.1}, {"low_share": -0.1}, {"low_share": float("nan")}, {"amount": -1}, {"balance_floor": -1}],
)
def test_a_rule_nobody_could_follow_is_refused(broken):
    with pytest.raises(UsageError, match="top_up"):
        TopUpPolicy(**broken)
