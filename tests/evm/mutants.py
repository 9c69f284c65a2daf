"""Bugs planted in the contract's source, one a mutant: a dropped check, a swapped comparison, a wrong party.

Each is (name, line as it is, line as it becomes); the line must be in the source exactly once, so none is planted in vain.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One bug."""

    name: str
    before: str
    after: str

    def plant(self, source: str) -> str:
        """The source with the bug; an error if its place is gone."""
        if source.count(self.before) != 1:
            raise ValueError(f"{self.name}: its line is {source.count(self.before)} times in the source")
        return source.replace(self.before, self.after)


MUTANTS = [
    Mutant(
        "pays without a signature",
        '    assert signer == self._account(session), "bad_signature"',
        "    assert True",
    ),
    Mutant(
        "pays what was never locked",
        "    cum: uint256 = min(convert(ack.cum, uint256), (word >> 160) & AMOUNT)",
        "    cum: uint256 = convert(ack.cum, uint256)",
    ),
    Mutant(
        "pays again what was paid",
        "    self.provider_words[ack.channel] = provider + (due << 160)",
        "    self.provider_words[ack.channel] = provider",
    ),
    Mutant(
        "accepts the twin of a signature",
        '    assert convert(signature.s, uint256) <= HALF_ORDER and signature.v <= 1, "bad_signature"',
        '    assert signature.v <= 1, "bad_signature"',
    ),
    Mutant(
        "accepts any path that ends somewhere",
        '    assert last == 0 and node == self.roots[leaf.epoch], "bad_proof"',
        '    assert last == 0, "bad_proof"',
    ),
    Mutant(
        "accepts a path that is too short",
        '    assert last == 0 and node == self.roots[leaf.epoch], "bad_proof"',
        '    assert node == self.roots[leaf.epoch], "bad_proof"',
    ),
    Mutant(
        "accepts a batch under any root",
        '    assert used == len(siblings) and nodes[0] == self.roots[epoch], "bad_proof"',
        '    assert used == len(siblings), "bad_proof"',
    ),
    Mutant(
        "leaves siblings of a batch unread",
        '    assert used == len(siblings) and nodes[0] == self.roots[epoch], "bad_proof"',
        '    assert nodes[0] == self.roots[epoch], "bad_proof"',
    ),
    Mutant(
        "lets anyone act for a payer",
        '    assert msg.sender == self._account(self.payer_words[channel_id]), "not_the_payer"',
        "    assert True",
    ),
    Mutant(
        "lets a payer leave at once",
        '    assert self._now_ms() >= self.payer_words[channel_id] >> 160, "exit_too_early"',
        "    assert True",
    ),
    Mutant(
        "refunds what was paid too",
        "    refunded: uint256 = ((word >> 160) & AMOUNT) - paid",
        "    refunded: uint256 = (word >> 160) & AMOUNT",
    ),
    Mutant(
        "lets a root be replaced",
        '    assert self.poster_words[epoch] == 0, "epoch_exists"',
        "    assert True",
    ),
    Mutant(
        "lets anyone post at once",
        '    assert msg.sender == AGGREGATOR or now_ms >= end_ms + GRACE_MS, "not_the_aggregator"',
        "    assert True",
    ),
    Mutant(
        "lets a root be posted without a bond",
        '    assert (bonded >> 160) & AMOUNT >= SLASH * FAULTS_PER_BOND, "bond_too_small"',
        "    assert True",
    ),
    Mutant(
        "lets a bond leave under a challenge",
        '    assert (word >> 224) & COUNT_BITS == 0, "challenge_open"',
        "    assert True",
    ),
    Mutant(
        "slashes before an answer could come",
        '    assert self._now_ms() >= (word >> 160) & TIME, "answer_pending"',
        "    assert True",
    ),
    Mutant(
        "takes any leaf for an answer",
        '    assert leaf.seq >= promised_seq, "leaf_too_old"',
        "    assert True",
    ),
    Mutant(
        "takes no stake",
        "    self.balances[msg.sender] = free - SLASH // STAKES_PER_SLASH",
        "    self.balances[msg.sender] = free",
    ),
    Mutant(
        "burns nothing",
        "    self.burnt += amount - reward",
        "    self.burnt += 0",
    ),
    Mutant(
        "counts a new key at once",
        "        if self._now_ms() >= following >> 160:",
        "        if self._now_ms() >= 0:",
    ),
    Mutant(
        "withdraws what is not there",
        '    assert free >= amount, "insufficient_balance"\n    self.balances[account] = free - amount',
        "    self.balances[account] = unsafe_sub(free, amount)",
    ),
    Mutant(
        "gives a deposit without its coin",
        '        assert msg.value == amount * UNIT, "wrong_value"',
        "        assert True",
    ),
]
