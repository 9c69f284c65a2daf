"""Two slots and a queue of one."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quiver.ids import ChannelId, RequestId
from quiver.provider import admission as module
from quiver.provider.admission import SlotAdmission, SlotVerdict
from tests.examples import examples

CHANNEL, OTHER = ChannelId(bytes(32)), ChannelId(b"\x01" * 32)


@pytest.fixture
def admission():
    return SlotAdmission(slots=2, queue_max=1)


def check(admission, number, *, channel=CHANNEL, deadline_ms=1_000, utc_ms=0):
    verdict = admission.check(channel, RequestId(number.to_bytes(16, "big")), deadline_ms=deadline_ms, utc_ms=utc_ms)
    admission.validate()
    return verdict


def end(admission, number):
    admission.on_end(CHANNEL, RequestId(number.to_bytes(16, "big")))
    admission.validate()


def test_slots_and_queue_are_admitted_and_the_next_is_busy(admission):
    assert [check(admission, number) for number in range(4)] == [SlotVerdict.ADMIT] * 3 + [SlotVerdict.BUSY]
    assert admission.admitted == admission.queued == 3
    end(admission, 0)
    assert check(admission, 3) is SlotVerdict.ADMIT, "busy is not remembered as a replay"


def test_a_repeat_is_refused_also_after_its_end_but_another_channel_is_another_request(admission):
    assert check(admission, 1) is SlotVerdict.ADMIT
    assert check(admission, 1) is SlotVerdict.REPLAYED
    end(admission, 1)
    assert check(admission, 1, utc_ms=999) is SlotVerdict.REPLAYED
    assert check(admission, 1, channel=OTHER) is SlotVerdict.ADMIT
    assert admission.admitted == 1


def test_a_late_request_changes_nothing(admission):
    assert check(admission, 1, deadline_ms=5, utc_ms=5) is SlotVerdict.LATE
    assert check(admission, 1, deadline_ms=6, utc_ms=5) is SlotVerdict.ADMIT


def test_a_forgotten_request_may_be_asked_again(admission):
    check(admission, 1)
    admission.forget(CHANNEL, RequestId((1).to_bytes(16, "big")))
    assert admission.admitted == 0
    assert check(admission, 1) is SlotVerdict.ADMIT


def test_a_repeat_after_its_deadline_is_late_so_it_need_not_be_remembered(admission):
    check(admission, 1, deadline_ms=1_000)
    end(admission, 1)
    check(admission, 2, deadline_ms=9_000, utc_ms=2_000)
    assert check(admission, 1, deadline_ms=1_000, utc_ms=2_000) is SlotVerdict.LATE


def test_remembered_ids_are_bounded_and_the_oldest_goes_first(monkeypatch):
    monkeypatch.setattr(module, "SEEN_MAX", 3)
    admission = SlotAdmission(slots=10, queue_max=0)
    for number in range(4):
        assert check(admission, number) is SlotVerdict.ADMIT
    assert check(admission, 3) is SlotVerdict.REPLAYED
    assert check(admission, 0) is SlotVerdict.REPLAYED, "forgotten, but still open"
    end(admission, 0)
    assert check(admission, 0) is SlotVerdict.ADMIT


def test_an_open_request_is_a_replay_also_after_its_deadline(admission):
    check(admission, 1, deadline_ms=1_000)
    check(admission, 2, deadline_ms=9_000, utc_ms=2_000)
    assert check(admission, 1, deadline_ms=9_000, utc_ms=2_000) is SlotVerdict.REPLAYED
    end(admission, 1)
    assert check(admission, 1, deadline_ms=9_000, utc_ms=2_000) is SlotVerdict.ADMIT


def test_the_expected_wait_grows_by_a_service_time_for_each_full_round(admission):
    admission.service_s = 4.0
    waits = []
    for number in range(3):
        waits.append(admission.expected_wait_s())
        check(admission, number)
    # Nobody ahead, one slot free, then one of two slots to wait for: half a service time.
    assert waits == [0.0, 0.0, 2.0] and admission.expected_wait_s() == 4.0


def test_the_service_time_follows_what_was_served(admission):
    assert admission.service_s == 1.0
    admission.on_served(6.0)
    assert admission.service_s == pytest.approx(2.0)
    for _ in range(100):
        admission.on_served(6.0)
    assert admission.service_s == pytest.approx(6.0)


class Admissions(RuleBasedStateMachine):
    """Against a plain set of (channel, id) and a count."""

    def __init__(self):
        super().__init__()
        self.admission = SlotAdmission(slots=2, queue_max=2)
        self.now_ms, self.open, self.seen = 0, [], {}

    @rule(number=st.integers(0, 5), channel=st.sampled_from([CHANNEL, OTHER]), left_ms=st.integers(-5, 50))
    def ask(self, number, channel, left_ms):
        key = channel, RequestId(number.to_bytes(16, "big"))
        deadline_ms = self.now_ms + left_ms
        verdict = self.admission.check(*key, deadline_ms=deadline_ms, utc_ms=self.now_ms)
        if self.seen.get(key, -1) >= self.now_ms or key in self.open:
            assert verdict is SlotVerdict.REPLAYED, "remembered at least until its deadline and its end"
        elif verdict is not SlotVerdict.REPLAYED:
            expected = (
                SlotVerdict.LATE if left_ms <= 0 else SlotVerdict.BUSY if len(self.open) == 4 else SlotVerdict.ADMIT
            )
            assert verdict is expected
        else:
            assert key in self.seen
        if verdict is SlotVerdict.ADMIT:
            self.open.append(key)
            self.seen[key] = deadline_ms

    @precondition(lambda self: self.open)
    @rule(refused=st.booleans())
    def end(self, refused):
        key = self.open.pop()
        if refused:
            self.admission.forget(*key)
            del self.seen[key]
        else:
            self.admission.on_end(*key)

    @rule(ms=st.integers(1, 40))
    def wait(self, ms):
        self.now_ms += ms

    @invariant()
    def agree(self):
        self.admission.validate()
        assert self.admission.admitted == len(self.open)


TestAdmissions = Admissions.TestCase
TestAdmissions.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
