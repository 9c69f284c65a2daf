"""The candidate table: offers, guards, loads, ejection and bounds."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from quiver.params import Params
from quiver.selection.candidates import CandidateTable, InFlight, OfferVerdict
from quiver.selection.ejection import Ejection
from tests.examples import examples
from tests.unit.selection.builders import MODEL, OTHER_MODEL, load, offer, outcome, peer

MINIMAL = Params.minimal()  # 8 candidates a model, offers last at most 10 s


def table_of(*names: str) -> CandidateTable:
    table = CandidateTable(MINIMAL, opening_cost_credits=77)
    for name in names:
        assert table.on_offer(offer(name), now=0.0, utc_ms=0) is OfferVerdict.TAKEN
    return table


def names(table: CandidateTable, now: float) -> str:
    return "".join(candidate.peer.decode() for candidate in table.candidates(MODEL, now))


def fail(table: CandidateTable, name: str, *, now: float, times: int = 5) -> None:
    for _ in range(times):
        table.on_outcome(outcome(name, ok=False), model=MODEL, now=now)


def test_candidates_are_sorted_by_peer_id_and_only_of_the_model():
    table = table_of("c", "a", "b")
    table.on_offer(offer("x", model=OTHER_MODEL), now=0.0, utc_ms=0)
    assert names(table, 0.0) == "abc"
    assert table.peers() == [b"a", b"b", b"c", b"x"]


def test_a_candidate_shows_the_offer_and_says_that_nothing_was_measured_yet():
    (seen,) = table_of("a").candidates(MODEL, 0.0)
    assert (seen.slots, seen.prompt_price, seen.completion_price, seen.reported_decode_tps) == (4, 100, 200, 50.0)
    assert (seen.rtt_s, seen.ttft_ewma_s, seen.in_flight, seen.warm) == (None, None, 0, False)
    assert (seen.channel_ready, seen.opening_cost_credits, seen.reported_age_s) == (False, 77, math.inf)


def test_what_is_measured_shows_at_once():
    table = table_of("a")
    table.candidates(MODEL, 0.0)
    table.on_rtt(peer("a"), 0.05)
    table.on_channel(peer("a"), ready=True)
    table.on_outcome(outcome("a", ttft_s=0.4), model=MODEL, now=0.0)
    table.on_outcome(outcome("a", ttft_s=0.6), model=MODEL, now=0.0)
    table.on_outcome(outcome("a", ok=False, ttft_s=9.0), model=MODEL, now=0.0)
    (seen,) = table.candidates(MODEL, 0.0)
    assert (seen.rtt_s, seen.ttft_ewma_s, seen.channel_ready, seen.opening_cost_credits) == (0.05, 0.5, True, 0)


def test_a_load_report_ages():
    table = table_of("a")
    assert table.on_load(peer("a"), load(queued=3, running=2, warm=(MODEL,)), now=1.0)
    (seen,) = table.candidates(MODEL, 1.0)
    assert (seen.reported_queued, seen.reported_running, seen.warm, seen.reported_age_s) == (3, 2, True, 0.0)
    assert table.candidates(MODEL, 4.0)[0].reported_age_s == 3.0
    assert not table.on_load(peer("stranger"), load(), now=1.0)


def test_an_offer_counts_until_it_expires_and_never_longer_than_the_lease():
    table = CandidateTable(MINIMAL)
    table.on_offer(offer("a", expires_ms=5_000), now=100.0, utc_ms=1_000)  # 4 s left
    table.on_offer(offer("b", expires_ms=99_000_000), now=100.0, utc_ms=1_000)  # the lease: 10 s
    assert names(table, 103.9) == "ab"
    assert names(table, 104.0) == "b"
    assert names(table, 110.0) == ""
    assert table.offer(peer("b"), MODEL, 109.0) is not None
    assert table.offer(peer("b"), MODEL, 110.0) is None
    assert table.on_offer(offer("c", expires_ms=900), now=100.0, utc_ms=1_000) is OfferVerdict.EXPIRED


def test_an_older_generation_or_lease_is_stale():
    table = table_of()
    table.on_offer(offer("a", generation=2, expires_ms=8_000, prompt_price=2), now=0.0, utc_ms=0)
    replayed = offer("a", generation=1, expires_ms=9_000, prompt_price=1)
    assert table.on_offer(replayed, now=0.0, utc_ms=0) is OfferVerdict.STALE
    assert table.on_offer(offer("a", generation=2, expires_ms=7_999), now=0.0, utc_ms=0) is OfferVerdict.STALE
    assert table.on_offer(offer("a", generation=1, model=OTHER_MODEL), now=0.0, utc_ms=0) is OfferVerdict.STALE
    assert table.candidates(MODEL, 0.0)[0].prompt_price == 2


def test_a_restart_voids_other_offers_and_the_load_but_not_the_failures():
    table = table_of("a", "b")
    table.on_offer(offer("a", model=OTHER_MODEL), now=0.0, utc_ms=0)
    table.on_load(peer("a"), load(queued=9), now=0.0)
    fail(table, "a", now=0.0)
    guard = table.dispatch(peer("a"))
    assert table.on_offer(offer("a", generation=2), now=1.0, utc_ms=1_000) is OfferVerdict.TAKEN
    assert table.candidates(OTHER_MODEL, 1.0) == []
    assert table.is_ejected(peer("a"), 1.0)
    assert table.in_flight(peer("a")) == 1
    guard.release()
    table.validate()


def test_the_guard_counts_down_once_however_the_attempt_ends():
    table = table_of("a")
    guard = table.dispatch(peer("a"))
    with table.dispatch(peer("a")):
        assert table.candidates(MODEL, 0.0)[0].in_flight == 2
    guard.release()
    guard.release()
    assert table.candidates(MODEL, 0.0)[0].in_flight == 0
    with pytest.raises(ValueError, match="broken"), table.dispatch(peer("a")):
        raise ValueError("broken")
    assert table.in_flight(peer("a")) == 0


def test_the_guard_survives_cancellation():
    table = table_of("a")

    async def attempt() -> None:
        with table.dispatch(peer("a")):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(attempt())
        await asyncio.sleep(0)
        assert table.in_flight(peer("a")) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert table.in_flight(peer("a")) == 0

    asyncio.run(main())


def test_dispatch_to_a_peer_forgotten_meanwhile_harms_nobody():
    table = table_of("a")
    with table.dispatch(peer("gone")):
        assert table.in_flight(peer("gone")) == 0
    table.validate()


def test_five_failures_in_a_row_eject_for_thirty_seconds():
    ejection = Ejection()
    for _ in range(4):
        ejection.on_failure(now=0.0)
    ejection.on_success()
    for _ in range(4):
        ejection.on_failure(now=1.0)
    assert ejection.until_s == -math.inf
    ejection.on_failure(now=1.0)
    assert ejection.until_s == 31.0


def test_the_nth_ejection_lasts_n_times_as_long_up_to_a_limit_and_good_conduct_is_forgiving():
    ejection, now, lengths = Ejection(), 0.0, []
    for _ in range(12):
        for _ in range(5):
            ejection.on_failure(now=now)
        lengths.append(ejection.until_s - now)
        now = ejection.until_s
    assert lengths == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
    now += 300.0
    for _ in range(5):
        ejection.on_failure(now=now)
    assert ejection.until_s - now == 30.0


def test_failures_during_an_ejection_are_the_same_outage():
    ejection = Ejection()
    for _ in range(50):
        ejection.on_failure(now=0.0)
    assert ejection.until_s == 30.0


def test_an_ejected_peer_is_hidden_and_busy_never_counts():
    table = table_of("a", "b")
    for _ in range(50):
        table.on_outcome(outcome("a", ok=False, busy=True), model=MODEL, now=0.0)
    assert names(table, 0.0) == "ab"
    fail(table, "a", now=0.0)
    assert names(table, 0.0) == "b"
    assert table.panics == 0


def test_when_every_peer_is_ejected_the_filter_is_ignored():
    table = table_of("a", "b")
    fail(table, "a", now=0.0)
    fail(table, "b", now=0.0)
    assert names(table, 0.0) == "ab"
    assert table.panics == 1
    table.on_offer(offer("c"), now=0.0, utc_ms=0)
    assert names(table, 0.0) == "c"


def test_a_full_model_refuses_newcomers_but_replaces_what_expired_or_is_ejected():
    table = table_of(*"abcdefgh")
    assert table.on_offer(offer("i"), now=0.0, utc_ms=0) is OfferVerdict.FULL
    assert table.on_offer(offer("a", expires_ms=10_001), now=0.0, utc_ms=0) is OfferVerdict.TAKEN
    fail(table, "c", now=0.0)
    with table.dispatch(peer("c")):
        assert table.on_offer(offer("i"), now=0.0, utc_ms=0) is OfferVerdict.FULL
    assert table.on_offer(offer("i"), now=0.0, utc_ms=0) is OfferVerdict.TAKEN
    assert names(table, 0.0) == "abdefghi"
    assert table.on_offer(offer("j", expires_ms=30_000), now=20.0, utc_ms=20_000) is OfferVerdict.TAKEN
    assert names(table, 20.0) == "j"
    table.validate()


def test_sweep_forgets_peers_but_not_their_ejection_nor_what_is_in_flight():
    table = table_of("a", "b", "c")
    fail(table, "a", now=0.0)
    guard = table.dispatch(peer("b"))
    assert table.sweep(10.0) == 3
    assert table.is_ejected(peer("a"), 10.0)
    assert table.in_flight(peer("b")) == 1
    guard.release()
    assert table.on_offer(offer("a", expires_ms=20_000), now=10.0, utc_ms=10_000) is OfferVerdict.TAKEN
    assert table.is_ejected(peer("a"), 10.0)
    table.validate()


class TableMachine(RuleBasedStateMachine):
    """Any order of offers, loads, dispatches, outcomes and sweeps keeps the table consistent and bounded."""

    guards: Bundle[InFlight] = Bundle("guards")

    def __init__(self) -> None:
        super().__init__()
        self.table = CandidateTable(MINIMAL)
        self.now = 0.0
        self.open = dict.fromkeys((f"{at:02}" for at in range(40)), 0)

    @rule(at=st.integers(0, 39), generation=st.integers(1, 3), other=st.booleans(), lease_ms=st.integers(0, 12_000))
    def offer(self, at: int, generation: int, other: bool, lease_ms: int) -> None:
        utc_ms = int(self.now * 1000)
        model = OTHER_MODEL if other else MODEL
        value = offer(f"{at:02}", generation=generation, model=model, expires_ms=utc_ms + lease_ms)
        verdict = self.table.on_offer(value, now=self.now, utc_ms=utc_ms)
        if verdict is OfferVerdict.TAKEN:
            assert self.table.offer(value.provider, model, self.now) == value

    @rule(at=st.integers(0, 39), ok=st.booleans(), busy=st.booleans(), times=st.integers(1, 6))
    def outcome(self, at: int, ok: bool, busy: bool, times: int) -> None:
        for _ in range(times):
            value = outcome(f"{at:02}", ok=ok and not busy, busy=busy, ttft_s=1.0)
            self.table.on_outcome(value, model=MODEL, now=self.now)

    @rule(target=guards, at=st.integers(0, 39))
    def dispatch(self, at: int) -> InFlight:
        return self.table.dispatch(peer(f"{at:02}"))

    @rule(guard=guards)
    def release(self, guard: InFlight) -> None:
        guard.release()

    @rule(seconds=st.floats(0.0, 400.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.table.sweep(self.now)

    @invariant()
    def consistent(self) -> None:
        self.table.validate()
        candidates = self.table.candidates(MODEL, self.now)
        assert [candidate.peer for candidate in candidates] == sorted({candidate.peer for candidate in candidates})
        for candidate in candidates:
            assert self.table.offer(candidate.peer, MODEL, self.now) is not None
            assert candidate.in_flight == self.table.in_flight(candidate.peer)
        hidden = [candidate for candidate in candidates if self.table.is_ejected(candidate.peer, self.now)]
        assert hidden in ([], candidates)


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(max_examples=examples(25), stateful_step_count=30, deadline=None)
