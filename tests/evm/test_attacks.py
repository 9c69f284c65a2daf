"""Every story of `tests/scenarios/test_attacks.py` and `test_defects.py` on the EVM, beside the model: the same refusals, the same losses."""

from __future__ import annotations

import pytest

from tests.evm.pair import Pair
from tests.evm.test_disputes import CourtOnChain
from tests.scenarios.test_attacks import *  # noqa: F403
from tests.scenarios.test_defects import *  # noqa: F403


@pytest.fixture
def court():
    return CourtOnChain(Pair())
