"""Every planted bug is found: by a story told on the chain, or by random transactions beside the model."""

from __future__ import annotations

import pytest

from tests.evm.compiled import SOURCE, compile_source, need_compiler
from tests.evm.mutants import MUTANTS, Mutant
from tests.evm.pair import Difference, Pair
from tests.evm.test_disputes import CourtOnChain
from tests.evm.test_side_by_side import drive
from tests.evm.tokens import check_coin
from tests.unit.settlement import test_disputes as stories

# Random steps that a mutant has to survive; the contract itself survives fifty thousand.
LIVES, STEPS = 150, 80
STORIES = [story for name, story in vars(stories).items() if name.startswith("test_")]
# Found within seconds; the others with `make check-long`.
QUICK = {"pays without a signature", "lets a bond leave under a challenge"}


def find(mutant: Mutant) -> str:
    """How the bug shows; fails if it does not."""
    need_compiler()
    bytecode = bytes.fromhex(compile_source(mutant.plant(SOURCE.read_text()))["bytecode"][2:])
    try:
        check_coin(bytecode)
        for story in STORIES:
            story(CourtOnChain(Pair(bytecode)))
        drive(lives=LIVES, steps=STEPS, bytecode=bytecode)
    except (Difference, AssertionError) as found:
        return str(found)
    raise LookupError(f"nothing tells the contract from one that {mutant.name}")


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in MUTANTS if mutant.name in QUICK], ids=lambda mutant: mutant.name
)
def test_a_planted_bug_is_found(mutant):
    assert find(mutant)


@pytest.mark.long
@pytest.mark.parametrize(
    "mutant", [mutant for mutant in MUTANTS if mutant.name not in QUICK], ids=lambda mutant: mutant.name
)
def test_every_other_planted_bug_is_found(mutant):
    assert find(mutant)
