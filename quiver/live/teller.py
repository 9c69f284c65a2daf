"""Clients' credit as an operator changes and sees it, in a gateway that runs or in its store."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from quiver.errors import UsageError
from quiver.gateway.budget import Budget
from quiver.ports import Clock, Store


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """One client's account, credits."""

    account: str
    balance: int
    held: int
    "Of the balance, what open requests may still cost."
    granted: int
    charged: int
    requests: int


class Teller:
    """One gateway's."""

    def __init__(self, budget: Budget, accounts: Collection[str], store: Store, clock: Clock) -> None:
        """`accounts`: names that may be given something."""
        self._budget = budget
        self._accounts = frozenset(accounts)
        self._store = store
        self._clock = clock

    async def grant(self, grant_id: bytes, account: str, amount: int) -> AccountView:
        """Durable at return. `UsageError` for a name nobody buys under, or more than can be taken back."""
        if account not in self._accounts:
            raise UsageError(
                f"{account!r} is no name of [[http.keys]] that pays; those are: {', '.join(sorted(self._accounts))}"
            )
        rows = self._budget.grant(grant_id, account, amount, at_ms=self._clock.utc_ms())
        # Committed even when it is empty: what an earlier call of the same id wrote is on disk by then.
        await self._store.commit(rows)
        return self.view(account)

    def sells_to(self, account: str) -> bool:
        """Whether this name pays."""
        return account in self._accounts

    def view(self, account: str) -> AccountView:
        """As it stands now."""
        known = self._budget.find(account)
        return AccountView(
            account=account, balance=known.balance, held=self._budget.held(account), granted=known.granted,
            charged=known.charged, requests=known.requests,
        )  # fmt: skip

    def views(self) -> list[AccountView]:
        """Every account that may buy, or ever had credit."""
        return [self.view(name) for name in sorted(self._accounts | self._budget.accounts.keys())]
