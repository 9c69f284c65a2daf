"""Model and contract with the same random transactions: same refusals, same events, same state after every step."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from quiver.values.ledger import Transaction
from tests.evm.machine import PairMachine


def drive(*, lives, steps, bytecode=None):
    """What both accepted and refused, counted, over `lives` contracts of `steps` transactions."""

    class Machine(PairMachine):
        seen = {"accepted": Counter(), "refused": Counter()}

    Machine.bytecode = bytecode
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=lives, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    return Machine.seen


def check(seen, *, transactions_min):
    accepted, refused = seen["accepted"], seen["refused"]
    assert accepted.total() + refused.total() >= transactions_min
    # A kind that nothing accepted, or a refusal that nothing met, would have been compared with nothing.
    assert {kind.__name__ for kind in get_args(Transaction)} == set(accepted)
    return refused


def test_five_thousand_transactions_are_taken_and_refused_alike():
    check(drive(lives=100, steps=60), transactions_min=5000)


@pytest.mark.long
def test_fifty_thousand_transactions_are_taken_and_refused_alike():
    seen = drive(lives=620, steps=100)
    refused = check(seen, transactions_min=50_000)
    assert set(refused) >= {"nothing_due", "bad_proof"}
