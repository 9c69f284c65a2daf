"""What stands behind a root: credits that its poster loses for a proven fault."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from quiver.errors import SettlementError
from quiver.ids import Address
from quiver.settlement.accounts import Accounts, check_address, check_amount
from quiver.settlement.terms import Terms
from quiver.values.ledger import Bond, BondState


class Bonds:
    """Bonds by account. A bond returns no sooner than everything its poster can be accused of is over."""

    def __init__(self, terms: Terms, accounts: Accounts) -> None:
        self._terms = terms
        self._accounts = accounts
        self._bonds: dict[Address, BondState] = {}

    def get(self, account: Address) -> BondState | None:
        """What `account` has bonded, or None."""
        return self._bonds.get(account)

    def states(self) -> tuple[BondState, ...]:
        """All of them, by account."""
        return tuple(self._bonds[account] for account in sorted(self._bonds))

    def restore(self, states: Sequence[BondState]) -> None:
        """Inverse of `states`."""
        self._bonds = {state.account: state for state in states}

    @property
    def held(self) -> int:
        """Credits in all bonds."""
        return sum(state.amount for state in self._bonds.values())

    def bond(self, transaction: Bond) -> None:
        """Credits go behind the sender's roots, past ones too."""
        check_address(transaction.signer)
        check_amount(transaction.amount)
        account, kept = transaction.sender, self._bonds.get(transaction.sender)
        if kept is not None:
            if kept.unbond_at_ms is not None:
                raise SettlementError("unbonding", "the bond is on its way back; finish that first")
            if kept.signer != transaction.signer:
                raise SettlementError("signer_fixed", "another signer would disown the promises of this one")
        self._accounts.check_funds(account, transaction.amount)
        self._accounts.debit(account, transaction.amount)
        before = kept or BondState(account=account, signer=transaction.signer, amount=0)
        self._bonds[account] = msgspec.structs.replace(before, amount=before.amount + transaction.amount)

    def request_unbond(self, account: Address, now_ms: int) -> None:
        """From now on the account posts nothing; its bond stays for `exit_delay_ms`."""
        kept = self.check_bonded(account)
        if kept.unbond_at_ms is not None:
            raise SettlementError("unbonding", "the return of this bond was requested before")
        self._bonds[account] = msgspec.structs.replace(kept, unbond_at_ms=now_ms + self._terms.exit_delay_ms)

    def finish_unbond(self, account: Address, now_ms: int) -> int:
        """Credits that returned."""
        kept = self.check_bonded(account)
        if kept.unbond_at_ms is None:
            raise SettlementError("unbond_not_requested", "request it first")
        if now_ms < kept.unbond_at_ms:
            raise SettlementError("unbond_too_early", f"the bond may return in {kept.unbond_at_ms - now_ms} ms")
        if kept.challenges:
            raise SettlementError("challenge_open", f"{kept.challenges} challenges are not decided; finalize them")
        del self._bonds[account]
        self._accounts.credit(account, kept.amount)
        return kept.amount

    def check_poster(self, account: Address) -> None:
        """`SettlementError` unless the account may answer for a root."""
        kept = self._bonds.get(account)
        if kept is not None and kept.unbond_at_ms is not None:
            raise SettlementError("unbonding", "whoever takes its bond back posts no root")
        if (0 if kept is None else kept.amount) < self._terms.bond_min:
            raise SettlementError("bond_too_small", f"a poster bonds at least {self._terms.bond_min} credits")

    def check_bonded(self, account: Address) -> BondState:
        """`SettlementError` unless the account has a bond, which then stays while a challenge is open."""
        kept = self._bonds.get(account)
        if kept is None:
            raise SettlementError("not_bonded", "this account has no bond")
        return kept

    def accuse(self, account: Address) -> None:
        """One more open challenge against a bonded account."""
        self._count(account, 1)

    def acquit(self, account: Address) -> None:
        """One open challenge less."""
        self._count(account, -1)

    def slash(self, account: Address, accuser: Address) -> tuple[int, int]:
        """Credits taken from the bond, and how many of them the accuser got; the rest is burnt."""
        kept = self._bonds[account]
        taken = min(self._terms.slash, kept.amount)
        reward = taken // 2
        self._bonds[account] = msgspec.structs.replace(kept, amount=kept.amount - taken)
        self._accounts.credit(accuser, reward)
        self._accounts.burnt += taken - reward
        return taken, reward

    def _count(self, account: Address, change: int) -> None:
        kept = self._bonds[account]
        self._bonds[account] = msgspec.structs.replace(kept, challenges=kept.challenges + change)

    def validate(self) -> None:
        """No bond and no count below zero."""
        for account, state in self._bonds.items():
            assert account == state.account, "a bond is filed under another account"
            assert state.amount >= 0 and state.challenges >= 0, f"bond of {account.hex()} below zero"
