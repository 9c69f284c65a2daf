"""What is held against a provider, counted by hand: 0.6 for each own detector, 0.25 a witness up to 0.5, passed over from 1."""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import ReceiptMismatch
from quiver.selection import reputation
from quiver.selection.reputation import EVIDENCE_MS_MAX, Reputation
from quiver.values.evidence import Evidence, SignedEvidence
from tests.unit.selection.builders import candidate

PEER, OTHER = b"peer", b"other"
WITNESSES = [bytes([number]) * 32 for number in range(5)]


def evidence(detector="speed", score=2.0, peer=PEER, until_ms=1_000):
    return Evidence(peer=peer, detector=detector, score=score, threshold=1.0, since_ms=0, until_ms=until_ms)


def hearsay(witness, **changes):
    return SignedEvidence(evidence=evidence(**changes), witness=witness, signature=bytes(64))


@pytest.fixture
def held():
    return Reputation(WITNESSES[:4])


def test_two_looks_of_our_own_are_enough_and_one_is_not(held):
    held.on_own(evidence())
    held.on_own(evidence(score=3.0))
    assert held.distrust(PEER, 1_000) == 0.6
    held.on_own(evidence("tokens"))
    assert held.distrust(PEER, 1_000) == 1.2
    held.on_own(evidence(score=0.5))
    assert held.distrust(PEER, 1_000) == 0.6, "a look that finds nothing takes the earlier one back"


def test_hearsay_is_capped_below_a_look_of_our_own_however_many_say_it(held):
    for witness in WITNESSES[:4]:
        for detector in ("speed", "tokens", "replay"):
            assert held.on_imported(hearsay(witness, detector=detector))
    assert held.distrust(PEER, 1_000) == 0.5
    held.on_own(evidence())
    assert held.distrust(PEER, 1_000) == 1.1


def test_a_stranger_is_not_heard(held):
    assert not held.on_imported(hearsay(WITNESSES[4]))
    assert held.distrust(PEER, 1_000) == 0


def test_only_a_new_suspicion_is_news(held):
    assert held.on_own(evidence()) and not held.on_own(evidence(score=3.0))
    assert not held.on_own(evidence(score=0.5)) and held.on_own(evidence())
    assert not held.on_own(evidence("tokens", score=1.0)), "at its threshold nobody is suspicious"


@pytest.mark.parametrize(
    ("until_ms", "name"),
    [(-1, "evidence_old: its receipts end 24 h ago"), (0, None), (EVIDENCE_MS_MAX + 60_000, None),
     (EVIDENCE_MS_MAX + 60_001, "evidence_early: its receipts end 60001 ms ahead")],
)  # fmt: skip
def test_hearsay_from_yesterday_or_tomorrow_does_not_count(held, until_ms, name):
    signed = hearsay(WITNESSES[0], until_ms=until_ms)
    if name is None:
        held.check_imported(signed, now_ms=EVIDENCE_MS_MAX, clock_skew_ms_max=60_000)
    else:
        with pytest.raises(ReceiptMismatch, match=f"^{name}"):
            held.check_imported(signed, now_ms=EVIDENCE_MS_MAX, clock_skew_ms_max=60_000)


def test_a_stranger_is_named(held):
    with pytest.raises(ReceiptMismatch, match=f"^evidence_foreign: {WITNESSES[4].hex()}"):
        held.check_imported(hearsay(WITNESSES[4]), now_ms=1_000, clock_skew_ms_max=0)


def test_hearsay_is_taken_back_as_a_whole_and_our_own_stays(held):
    held.on_own(evidence())
    for peer in (PEER, OTHER):
        assert held.on_imported(hearsay(WITNESSES[0], peer=peer))
    assert held.peers() == [OTHER, PEER]
    held.forget_imported()
    assert held.peers() == [PEER] and held.distrust(PEER, 1_000) == 0.6


def test_old_evidence_is_forgotten(held):
    for detector in ("speed", "tokens"):
        held.on_own(evidence(detector))
    assert held.distrust(PEER, 1_000 + EVIDENCE_MS_MAX) == 1.2
    assert held.distrust(PEER, 1_001 + EVIDENCE_MS_MAX) == 0


def test_the_distrusted_are_passed_over_unless_nobody_is_left(held):
    both = [candidate("peer"), candidate("other")]
    assert held.trusted(both, 1_000) == both
    for detector in ("speed", "tokens"):
        held.on_own(evidence(detector))
    assert [one.peer for one in held.trusted(both, 1_000)] == [OTHER]
    assert held.trusted(both[:1], 1_000) == both[:1]


def test_what_is_held_is_bounded_and_hearsay_goes_first(held, monkeypatch):
    monkeypatch.setattr(reputation, "EVIDENCE_PER_PEER_MAX", 3)
    monkeypatch.setattr(reputation, "PEERS_MAX", 2)
    for detector in ("speed", "tokens"):
        held.on_own(evidence(detector))
    for number in range(10):
        held.on_imported(hearsay(WITNESSES[0], detector=f"invented-{number}"))
    assert held.distrust(PEER, 1_000) == 1.2 + 0.25
    for number in range(3):
        held.on_own(evidence(peer=bytes([number])))
    assert held.distrust(PEER, 1_000) == 0 and held.distrust(bytes([2]), 1_000) == 0.6


def test_evidence_that_finds_nothing_about_a_stranger_leaves_no_trace(held):
    held.on_own(evidence(score=0.0))
    assert held.trusted([candidate("peer")], 0) == [candidate("peer")] and not held._held
    assert msgspec.structs.replace(evidence(), score=1.0).is_suspicious is False
