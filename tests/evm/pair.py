"""The pure model and the contract, given the same transactions: whatever one does, the other must do too."""

from __future__ import annotations

from collections import Counter

import msgspec

from quiver.errors import SettlementError
from quiver.identity.keys import KeyPair, verify_session
from quiver.ids import Address
from quiver.live.chain.artefact import UNIT_DEFAULT
from quiver.live.chain.evm import EvmChain
from quiver.params import Params
from quiver.settlement.contract import Contract

# Whole seconds everywhere, as a chain counts them.
PARAMS = msgspec.structs.replace(Params.minimal(), exit_delay_s=24.0)
CHAIN_ID = 31337
SLASH = 100
AGGREGATOR = Address(b"\x0a" * 20)
ACCOUNTS = [*(Address(bytes([n]) * 20) for n in range(0x21, 0x25)), AGGREGATOR]
KEYS = [KeyPair(bytes([n]) * 32) for n in range(1, 5)]
KEY_OF = {key.session_address: key for key in KEYS}


class Difference(AssertionError):
    """Model and contract do not agree, or the contract broke a promise of its own."""


class Pair:
    """Both, at one time. `accepted` counts what both took, `refused` why both did not."""

    def __init__(self, bytecode: bytes | None = None, slash: int = SLASH) -> None:
        params = msgspec.structs.replace(PARAMS, slash_credits=slash)
        self.chain = EvmChain(chain_id=CHAIN_ID, aggregator=AGGREGATOR, params=params, bytecode=bytecode)
        self.model = Contract(
            chain_id=CHAIN_ID, contract=self.chain.contract, aggregator=AGGREGATOR, params=params,
            verify_session=verify_session,
        )  # fmt: skip
        self.now_ms = PARAMS.epoch_ms
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.withdrawn = 0

    def send(self, transaction):
        """The event, or None for what both refuse for the same reason."""
        outcome = self.apply(transaction)
        return None if isinstance(outcome, str) else outcome

    def apply(self, transaction):
        """The event, or the reason of both."""
        ours, theirs = (self._apply(side, transaction) for side in (self.model, self.chain))
        if isinstance(ours, str) or isinstance(theirs, str):
            if ours != theirs:
                raise Difference(f"{transaction}: model {ours}, contract {theirs}")
            self.refused[ours] += 1
            return ours
        for field in ("channel", "paid", "refunded", "slashed"):
            if getattr(ours, field) != getattr(theirs, field):
                raise Difference(f"{transaction}: {field} is {getattr(ours, field)}, on chain {getattr(theirs, field)}")
        self.accepted[type(transaction).__name__] += 1
        if type(transaction).__name__ == "Withdraw":
            self.withdrawn += transaction.amount
        return ours

    def _apply(self, side, transaction):
        try:
            return side.apply(transaction, self.now_ms)
        except SettlementError as error:
            return error.reason

    def compare(self):
        """`Difference` names the first account, channel, root, bond or challenge that is not the same."""
        self.model.validate()
        for account in ACCOUNTS:
            self._same("balance", self.model.balance(account), self.chain.balance(account))
            self._same("bond", self.model.bond(account), self.chain.bond(account))
        for state in self.model.channel_states():
            self._same("channel", state, self.chain.channel(state.channel))
        for state in self.model._epochs.states():
            self._same("epoch", state, self.chain.epoch(state.commitment.epoch))
        for state in self.model._challenges.states():
            self._same("challenge", state, self.chain.challenge(state.fault, state.epoch, state.subject))
        self._same("deposited", self.model.deposited, self.chain.deposited)
        # Every credit is covered by coin, to the unit; burnt ones stay as coin that nobody can reach.
        covered = (self.model.deposited - self.withdrawn) * UNIT_DEFAULT
        self._same("coin", covered, self.chain.coin(self.chain.contract))
        self._same("remaining", self.model.remaining, self.chain.deposited - self.withdrawn - self.chain.burnt)

    def _same(self, what, ours, theirs):
        if ours != theirs:
            raise Difference(f"{what}: {ours} in the model, {theirs} on chain")
