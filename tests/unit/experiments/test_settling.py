"""The notebook's settlement: credits are conserved in every step, gas is read and not made up, and a wrong answer is refused."""

from __future__ import annotations

import pytest

from experiments.settling import Settling, read_gas, read_gas_of
from quiver.errors import SettlementError


def test_credits_are_conserved_through_a_claim_and_two_disputes():
    settling = Settling()
    settling.serve(200, 500)
    settling.serve(50, 80)
    first = settling.acknowledge()
    settling.commit(first)
    # 200 x 0.1 + 500 x 0.4 = 220, and 5 + 32 = 37.
    assert settling.claim(first) == 257
    settling.serve(300, 400)
    second = settling.acknowledge()
    settling.commit(second, invented_cum=900)
    settling.accuse(0)
    with pytest.raises(SettlementError, match="bad_signature"):
        settling.answer(first)
    assert settling.answer(second) == 10
    settling.accuse(1)
    assert settling.let_pass(1) == 100
    assert settling.claim(second) == 30 + 160
    journal = settling.journal()
    assert (journal["total"] == journal["deposited"]).all() and journal["burnt"].iloc[-1] == 50
    assert settling.figure().axes[0].get_xlabel() == "credits"
    table = read_gas_of(journal)
    assert list(table["transaction"]) == [
        "Deposit", "OpenChannel", "Bond", "SubmitEpoch", "Claim", "ChallengeLeaf", "AnswerLeaf", "Finalize",
    ]  # fmt: skip


def test_gas_is_what_the_report_says(tmp_path):
    report = tmp_path / "report.md"
    report.write_text("| gas on anvil 9.9: open | 12,345 gas | - |\n| something else | 1 gas |\n")
    assert read_gas(report) == {"open": 12_345}
