"""Fraud detectors with numbers by hand: a machine of 2 slots that offers 10 tokens a second."""

from __future__ import annotations

import pytest

from quiver.receipts import history, payments
from quiver.receipts.fraud.amounts import Amount, Tokens
from quiver.receipts.fraud.cluster import SelfDealing
from quiver.receipts.fraud.copies import Equivocation, Replay
from quiver.receipts.fraud.registry import DETECTORS, judge
from quiver.receipts.fraud.speed import Boast, Overlap, Speed
from tests.unit.receipts.billing import START_MS, Billing


@pytest.fixture
def billing():
    made = Billing()
    made.offer(1)
    return made


def test_a_machine_that_bills_all_its_slots_could_do_is_fast_but_honest(billing):
    # 100 tokens take 10 s; two slots for 50 s are ten requests.
    for number in range(10):
        billing.bill(1, at_s=(10.0 * (1 + number // 2),))
    evidence = billing.score(Speed(), 1)
    assert evidence.score == pytest.approx(1.0) and not evidence.is_suspicious
    assert not billing.score(Overlap(), 1).is_suspicious


def test_twice_the_tokens_in_the_same_time_are_beyond_the_machine(billing):
    for number in range(10):
        billing.bill(1, tokens=(200,), at_s=(10.0 * (1 + number // 2),))
    evidence = billing.score(Speed(), 1)
    # The first would have begun 20 s before it ended: 2,000 tokens at 10/s are 200 s of slots, there were 2 x 60.
    assert evidence.score == pytest.approx(200 / 120) and evidence.is_suspicious
    assert evidence.reasons == ("10 requests bill 1.67 times what 2 slots can decode",)
    assert (evidence.since_ms, evidence.until_ms) == (START_MS + 10_000, START_MS)


def test_a_stream_is_timed_between_its_receipts(billing):
    for number in range(5):
        billing.bill(1, tokens=(50, 100, 50), at_s=(100.0 * number, 100.0 * number + 5, 100.0 * number + 7.5))
    # 150 tokens in 7.5 s are 20 a second.
    assert billing.score(Speed(), 1).score == pytest.approx(2.0)


def test_a_machine_that_never_comes_near_its_offer_boasts(billing):
    for number in range(10):
        # 30 tokens in 10 s are 3 a second; 10 are offered.
        billing.bill(1, tokens=(10, 30), at_s=(20.0 * number, 20.0 * number + 10))
    evidence = billing.score(Boast(), 1)
    assert evidence.score == pytest.approx(10 / 3) and evidence.is_suspicious
    assert evidence.reasons == ("the fastest of 10 streams had 30% of the offered speed",)
    billing.bill(1, tokens=(10, 90), at_s=(300.0, 310.0))
    assert not billing.score(Boast(), 1).is_suspicious


def test_four_requests_say_nothing_about_speed(billing):
    for _ in range(4):
        billing.bill(1, tokens=(10_000,))
    assert billing.score(Speed(), 1).score == 0


def test_three_requests_at_once_on_two_slots_overlap(billing):
    for start_s in (0.0, 1.0, 2.0):
        billing.bill(1, tokens=(10, 10), at_s=(start_s, start_s + 3.0))
    evidence = billing.score(Overlap(), 1)
    assert evidence.score == 1.5 and evidence.is_suspicious and evidence.reasons == ("3 requests at once on 2 slots",)


def test_a_slot_may_be_taken_the_moment_it_is_given_back(billing):
    for start_s in (0.0, 0.0, 3.0, 3.0):
        billing.bill(1, tokens=(10, 10), at_s=(start_s, start_s + 3.0))
    assert billing.score(Overlap(), 1).score == 1.0


def test_tokens_are_held_against_what_the_bytes_of_others_hold(billing):
    for provider in (2, 3, 4):
        billing.bill(provider, tokens=(1000,), delivered=(4000, 1000))
    billing.bill(1, tokens=(1500,), delivered=(4000, 1500))
    evidence = billing.score(Tokens(), 1)
    assert evidence.score == pytest.approx(1.5) and evidence.is_suspicious
    assert evidence.reasons[0] == "0.375 tokens a byte where 0.250 are usual"
    assert billing.score(Tokens(), 2).score == pytest.approx(1.0)


def test_tokens_the_chunks_never_named_are_seen_without_others(billing):
    billing.bill(1, tokens=(900,), delivered=(4000, 600))
    assert billing.score(Tokens(), 1).score == pytest.approx(1.5)


def test_without_deliveries_nothing_is_said_about_bytes(billing):
    billing.bill(1, tokens=(100_000,))
    assert billing.score(Tokens(), 1).score == 0


def test_a_credit_more_than_the_offer_allows_is_too_much(billing):
    billing.bill(1, tokens=(100,), credits=100_000)
    assert not billing.score(Amount(), 1).is_suspicious
    billing.bill(1, tokens=(100,), credits=100_001)
    evidence = billing.score(Amount(), 1)
    assert evidence.is_suspicious and evidence.reasons == ("100001 credits for tokens that cost 100000 as offered",)


def test_a_dearer_offer_of_before_still_excuses_its_requests(billing):
    billing.bill(1, tokens=(1,), credits=5_000)
    assert billing.score(Amount(), 1).is_suspicious
    billing.offer(1, minimum=5_000)
    assert not billing.score(Amount(), 1).is_suspicious


def test_an_answer_sold_again_is_a_replay_whoever_sold_it_first(billing):
    for _ in range(2):
        billing.bill(2, answer="the same")
    for number in range(6):
        billing.bill(1, answer="the same" if number < 3 else None)
    evidence = billing.score(Replay(), 1)
    assert evidence.score == 0.5 and evidence.reasons == ("3 of 6 answers were billed before",)
    assert billing.score(Replay(), 2).score == 0, "two answers are too few"


def test_receipts_of_one_request_over_its_growing_answer_are_no_replay(billing):
    for _ in range(5):
        billing.bill(1, tokens=(40, 40), at_s=(0.0, 1.0))
    assert billing.score(Replay(), 1).score == 0


def test_short_answers_repeat_by_chance(billing):
    for _ in range(10):
        billing.bill(1, tokens=(3,), answer="yes")
    assert billing.score(Replay(), 1).score == 0


def test_two_histories_of_one_channel_are_proof_enough(billing):
    assert not billing.score(Equivocation(), 1).is_suspicious
    billing.book.on_fork(billing.peer(1), "fork: at receipt 7")
    evidence = billing.score(Equivocation(), 1)
    assert evidence.is_suspicious and evidence.reasons == ("fork: at receipt 7",)


def test_a_ring_that_pays_itself_stands_out_and_the_honest_do_not(billing):
    # Payers 1 to 3 spread over providers 1 to 8; payer 9 pays providers 21 and 22 and nobody else does, but for a trifle.
    for payer in (1, 2, 3):
        for provider in range(1, 9):
            billing.bill(provider, payer=payer, credits=100 + payer * provider)
    for provider in (21, 22):
        billing.bill(provider, payer=9, credits=500)
        billing.bill(provider, payer=1, credits=20)
    scores = {provider: billing.score(SelfDealing(), provider) for provider in (*range(1, 9), 21, 22)}
    assert [provider for provider, evidence in scores.items() if evidence.is_suspicious] == [21, 22]
    # 1,000 credits count twice inside, 40 once and cross the border: volume 2,040, cut 40.
    assert scores[21].score == pytest.approx(1 - 40 / 2040)
    assert scores[21].reasons == ("98% of the credits of 1 payers and 2 providers stay among them",)


def test_in_a_tiny_network_everybody_is_a_cluster_and_nobody_is_blamed(billing):
    for provider in (1, 2, 3):
        billing.bill(provider, payer=provider)
    assert billing.score(SelfDealing(), 1).score == 0


def test_the_book_is_bounded_and_forgets_the_oldest(billing, monkeypatch):
    monkeypatch.setattr(history, "REQUESTS_PER_PROVIDER_MAX", 3)
    monkeypatch.setattr(history, "PROVIDERS_MAX", 2)
    monkeypatch.setattr(payments, "PAYERS_PER_PROVIDER_MAX", 2)
    monkeypatch.setattr(history, "ANSWERS_MAX", 4)
    for payer in range(1, 7):
        billing.bill(1, payer=payer, credits=payer)
    kept = billing.book.history(billing.peer(1))
    paid = billing.book.payments
    assert len(kept.requests) == 3 and sorted(paid.edges(("provider", kept.peer)).values()) == [5, 6]
    paid.validate()
    assert len(billing.book._answers) == 4
    billing.bill(2)
    billing.bill(3)
    assert billing.book.peers() == sorted([billing.peer(2), billing.peer(3)])
    assert (paid.providers, paid.total) == (2, 200_000)
    paid.validate()


def test_yesterday_is_forgotten(billing):
    billing.bill(1)
    billing.now_ms += history.HISTORY_MS_MAX + 1
    billing.bill(1, at_s=(24 * 3600.0,))
    assert len(billing.book.history(billing.peer(1)).requests) == 1


def test_looking_changes_nothing(billing):
    for payer in range(1, 4):
        for provider in range(1, 6):
            billing.bill(provider, payer=payer, answer="x")
    detectors = [make() for make in DETECTORS.values()]
    first, again = (judge(billing.book, detectors, billing.now_ms) for _ in range(2))
    assert first == again and len(first) == 5 * len(DETECTORS)
