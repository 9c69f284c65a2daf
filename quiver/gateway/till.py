"""The till: holds a client's credit before its request begins, charges it when it is over.

Rules of this file: it awaits and moves values; what is charged is `selling`'s to say, what may be held `budget`'s. Who has no
account is served as if there were no till.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from quiver.gateway.budget import Budget, Hold
from quiver.gateway.selling import Selling, compute_usage
from quiver.gateway.session import Session
from quiver.ids import ModelId
from quiver.receipts.totals import DAY_MS
from quiver.runtime import Runtime
from quiver.values.request import Failure, Final, InferenceRequest, Principal


class Till:
    """One a gateway."""

    def __init__(self, runtime: Runtime, selling: Selling, accounts: Collection[str]) -> None:
        """`accounts`: names of principals that pay."""
        self.runtime = runtime
        self.selling = selling
        self.budget = Budget(runtime.store)
        self.accounts = frozenset(accounts)

    def open(self, request: InferenceRequest, principal: Principal, model: ModelId) -> Sale | None:
        """The most the request can cost is held; None for a client that pays nothing. `InsufficientCredit`, `Busy`."""
        if principal.name not in self.accounts:
            return None
        slack = self.runtime.params.completion_tokens_slack
        amount = self.selling.compute_max(request, model, slack_tokens=slack)
        return Sale(self, self.budget.hold(principal.name, amount), model)


class Sale:
    """One request that is paid for. `finish` or `abandon`; whatever comes second does nothing."""

    def __init__(self, till: Till, hold: Hold, model: ModelId) -> None:
        self._till = till
        self._hold = hold
        self._model = model

    async def finish(self, session: Session, last: Final | Failure) -> Final | Failure:
        """The answer is over: what the client is told of its cost is durable."""
        charged = await self._charge(session, last if isinstance(last, Final) else None)
        return replace(last, charged_credits=charged)

    async def abandon(self, session: Session) -> None:
        """The client left: it pays for what came until then."""
        if self._hold.is_open:
            await self._charge(session, None)

    async def _charge(self, session: Session, final: Final | None) -> int:
        till, budget = self._till, self._till.budget
        usage = compute_usage(session, final)
        if not usage.delivered and not usage.cost_credits:
            budget.release(self._hold)
            return 0
        charged = min(till.selling.compute_charge(self._model, usage), self._hold.amount)
        day = till.runtime.clock.utc_ms() // DAY_MS
        await till.runtime.store.commit(budget.charge(self._hold, charged, usage, model=self._model, day=day))
        return charged
