"""Conformance: every fraud detector answers about nobody, about a busy provider, twice alike, and is loaded like a policy."""

from __future__ import annotations

import math

import pytest

from quiver.errors import UsageError
from quiver.receipts.fraud.detector import check_detector, check_evidence
from quiver.receipts.fraud.registry import DETECTORS, resolve
from quiver.selection import plugin
from quiver.values.evidence import Evidence
from tests.unit.receipts.billing import Billing


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_detector_answers_about_anybody_and_is_a_value(name):
    billing, factory = Billing(), resolve(name)
    check_detector(factory, name)
    for provider in range(1, 6):
        billing.offer(provider)
        for payer in range(1, 9):
            billing.bill(provider, payer=payer, tokens=(40, 40), at_s=(payer, payer + 4.0), delivered=(320, 80))
    for provider in range(1, 7):
        peer = billing.peer(provider)
        evidence = billing.score(factory(), provider)
        check_evidence(evidence, peer)
        assert (evidence.detector, evidence.peer) == (name, peer) and len(evidence.reasons) <= 4
        assert evidence == billing.score(factory(), provider) and 0 <= evidence.score < math.inf
    assert factory() == factory() and hash(factory()) == hash(factory())


FINE = """
from quiver.receipts.fraud.detector import conclude


class Mine:
    name = "mine"

    def score(self, history, now_ms):
        return conclude(history, now_ms, detector=self.name, score=2.0, threshold=1.0, reasons=["so be it"])
"""


def test_a_detector_of_a_file_is_loaded(tmp_path):
    (tmp_path / "mine.py").write_text(FINE)
    billing = Billing()
    evidence = billing.score(resolve(f"{tmp_path}/mine.py:Mine")(), 1)
    assert evidence.is_suspicious and evidence.reasons == ("so be it",)


class Nameless:
    def score(self, history, now_ms):
        return None


class Silent(Nameless):
    name = "silent"


class Gossip:
    name = "gossip"

    def score(self, history, now_ms):
        return Evidence(peer=b"another", detector="gossip", score=math.nan, threshold=1.0, since_ms=0, until_ms=now_ms)


class Waits:
    name = "waits"

    async def score(self, history, now_ms):
        """A detector decides at once."""


class Demanding(Silent):
    def __init__(self, threshold):
        self.threshold = threshold


@pytest.mark.parametrize(
    ("plug", "says"),
    [
        ("nothing", "there are: amount, boast, equivocation"), (Nameless, "has no name"), (Silent, "returned NoneType"),
        (Gossip, "about another peer"), (Waits, "no plain method score"), (Demanding, "without arguments"), (3, "is a int"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_detector_is_refused_with_what_to_do(plug, says):
    with pytest.raises(UsageError, match=says):
        resolve(plug)


def test_a_missing_file_is_the_plugins_error(tmp_path):
    with pytest.raises(UsageError, match="could not be read"):
        resolve(f"{tmp_path}/none.py:Mine")
    assert plugin.find("quiver.receipts.fraud.speed:Speed") is DETECTORS["speed"]
