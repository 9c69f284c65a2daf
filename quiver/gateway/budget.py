"""What clients have prepaid and what they were charged, exact under any number of requests at once.

Rules of this file: no awaiting, no clock, no I/O but reading the store at start; what changes durable rows returns the batch to
commit. A balance is what was granted less what was charged. What an open request may cost at most is held beside it and promised to
no other, and a charge never exceeds its hold: no account goes below 0.

A charge is one batch, made once, when the request is over. Holds are in memory alone, so a crash releases them: a request dies with
its process, and what it had delivered by then is charged to nobody. The receipts for it say what it cost, not whose request it was;
the gateway bears that loss, which is at most what was open.
"""

from __future__ import annotations

import msgspec

from quiver.errors import Busy, InsufficientCredit, UsageError
from quiver.gateway.selling import Usage
from quiver.ids import ModelId
from quiver.ports import Batch, Store

ACCOUNTS, GRANTS, SALES = "gateway_budgets", "gateway_grants", "gateway_sales"
CREDITS_MAX = (1 << 63) - 1
GRANT_ID_BYTES = 16
# Another request of the account holds what this one needs: it will be over soon, and most of it comes back.
HELD_RETRY_S = 1.0


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Row of `gateway_budgets`, by the account's name."""

    granted: int = 0
    charged: int = 0
    requests: int = 0
    "Charged ones."

    @property
    def balance(self) -> int:
        """Credits."""
        return self.granted - self.charged


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Row of `gateway_grants`, by its id: what an admin gave, or took back."""

    account: str
    amount: int
    at_ms: int


class Sales(msgspec.Struct, frozen=True, kw_only=True):
    """Row of `gateway_sales`, by day (4 bytes, since 1970) and model: one row of 100 bytes a day and model."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sold: int = 0
    "Charged to clients, credits."
    cost: int = 0
    "Owed to providers for it."


class Hold:
    """What one open request may cost its account at most."""

    __slots__ = ("account", "amount", "is_open")

    def __init__(self, account: str, amount: int) -> None:
        self.account = account
        self.amount = amount
        self.is_open = True


_ENCODE = msgspec.msgpack.Encoder().encode
_ACCOUNT = msgspec.msgpack.Decoder(Account)
_SALES = msgspec.msgpack.Decoder(Sales)
_GRANT = msgspec.msgpack.Decoder(Grant)


class Budget:
    """All accounts of one gateway."""

    def __init__(self, store: Store) -> None:
        """As last committed."""
        self.accounts = {key.decode(): _ACCOUNT.decode(row) for key, row in store.scan(ACCOUNTS)}
        self._store = store
        self._held: dict[str, int] = {}
        self._grants: set[bytes] = set()
        "Ids given in this life; those of earlier ones are in the store."
        self._sales: dict[bytes, Sales] = {}

    def find(self, account: str) -> Account:
        """As it stands; one nobody knows is empty."""
        return self.accounts.get(account, Account())

    def balance(self, account: str) -> int:
        """Credits granted and not charged."""
        return self.find(account).balance

    def held(self, account: str) -> int:
        """Credits that open requests may still cost."""
        return self._held.get(account, 0)

    def hold(self, account: str, amount: int) -> Hold:
        """Keep `amount` for a request. `InsufficientCredit`, or `Busy` when only the account's own open requests are in the way."""
        balance, held = self.balance(account), self.held(account)
        if amount > balance:
            raise InsufficientCredit(account, balance=balance, need=amount)
        if amount > balance - held:
            raise Busy(
                f"account {account!r} holds {balance} credits, {held} of them for its open requests, and this one may "
                f"cost up to {amount}: wait until one of those is over",
                retry_after_s=HELD_RETRY_S,
            )
        self._held[account] = held + amount
        return Hold(account, amount)

    def release(self, hold: Hold) -> None:
        """The request is over and owes nothing. Idempotent."""
        if hold.is_open:
            hold.is_open = False
            self._held[hold.account] -= hold.amount

    def charge(self, hold: Hold, credits: int, usage: Usage, *, model: ModelId, day: int) -> Batch:
        """The request is over and cost `credits`, at most what was held; the rest is free again. `UsageError` if it is over already."""
        if not hold.is_open or not 0 <= credits <= hold.amount:
            raise UsageError(f"{credits} credits of a hold of {hold.amount}, open: {hold.is_open}")
        self.release(hold)
        before = self.find(hold.account)
        account = self.accounts[hold.account] = msgspec.structs.replace(
            before, charged=before.charged + credits, requests=before.requests + 1
        )
        key = day.to_bytes(4, "big") + model
        sold = self._sales.get(key) or self._read_sales(key)
        sold = self._sales[key] = Sales(
            requests=sold.requests + 1, prompt_tokens=sold.prompt_tokens + usage.prompt_tokens,
            completion_tokens=sold.completion_tokens + usage.completion_tokens, sold=sold.sold + credits,
            cost=sold.cost + usage.cost_credits,
        )  # fmt: skip
        return [(ACCOUNTS, hold.account.encode(), _ENCODE(account)), (SALES, key, _ENCODE(sold))]

    def grant(self, grant_id: bytes, account: str, amount: int, *, at_ms: int) -> Batch:
        """Give credit, or take back what is neither charged nor held. The same id again changes nothing and returns no rows."""
        if len(grant_id) != GRANT_ID_BYTES or not account:
            raise UsageError(f"a grant needs an account and an id of {GRANT_ID_BYTES} bytes")
        if grant_id in self._grants or self._store.get(GRANTS, grant_id) is not None:
            return []
        before = self.find(account)
        free = before.balance - self.held(account)
        if amount == 0 or -amount > free or before.granted + amount > CREDITS_MAX:
            raise UsageError(
                f"{amount} credits can't be added to account {account!r}: {free} are free to be taken back, "
                f"and at most {CREDITS_MAX} can be granted in all"
            )
        self._grants.add(grant_id)
        after = self.accounts[account] = msgspec.structs.replace(before, granted=before.granted + amount)
        row = _ENCODE(Grant(account=account, amount=amount, at_ms=at_ms))
        return [(GRANTS, grant_id, row), (ACCOUNTS, account.encode(), _ENCODE(after))]

    def _read_sales(self, key: bytes) -> Sales:
        row = self._store.get(SALES, key)
        return Sales() if row is None else _SALES.decode(row)

    def validate(self) -> None:
        """Own invariants."""
        for name, account in self.accounts.items():
            assert 0 <= self.held(name) <= account.balance
            assert account.charged >= 0
        assert all(self.held(name) <= self.balance(name) for name in self._held)


def read_sales(store: Store) -> dict[tuple[int, ModelId], Sales]:
    """By (days since 1970, model), as last committed."""
    return {(int.from_bytes(key[:4], "big"), ModelId(key[4:])): _SALES.decode(row) for key, row in store.scan(SALES)}


def read_grants(store: Store) -> list[Grant]:
    """As last committed, oldest first."""
    return sorted((_GRANT.decode(row) for _, row in store.scan(GRANTS)), key=lambda grant: grant.at_ms)
