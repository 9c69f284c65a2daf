"""Every story of `tests/unit/settlement/test_disputes.py` on the EVM, beside the model."""

from __future__ import annotations

import pytest

from quiver.errors import SettlementError
from tests.evm.pair import Pair
from tests.unit.settlement.test_disputes import *  # noqa: F403
from tests.unit.settlement.test_disputes import Court


class CourtOnChain(Court):
    def __init__(self, pair):
        self.pair = pair
        super().__init__(pair.model)

    def apply(self, transaction):
        self.pair.now_ms = self.now_ms
        outcome = self.pair.apply(transaction)
        self.pair.compare()
        if isinstance(outcome, str):
            raise SettlementError(outcome)
        return outcome


@pytest.fixture
def court():
    return CourtOnChain(Pair())
