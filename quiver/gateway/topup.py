"""When a payer locks credits in its channels, how many, and when it must not. No I/O, no clock; callers pass the day.

Rules of this file: what is locked counts against its day before the ledger is asked, and durably, so no crash lets a day's limit
be passed; what the ledger refused is taken back. Days are those of UTC, and a clock that goes back does not begin one again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from quiver.errors import UsageError
from quiver.ports import Batch, Store

TABLE = "gateway_top_ups"
_TODAY = b"today"


class TopUpPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator allows its gateway to lock. Money is credits."""

    low_share: float = 0.5
    "A channel is topped up when less than this share of a deposit is left in it; 0: never."
    amount: int = 0
    "Of one top-up; 0: a deposit."
    daily_max_credits: int = 0
    "Most that is locked in one UTC day, opening channels included; 0: no limit."
    balance_floor: int = 0
    "Free credits of the account that are never locked."

    def __post_init__(self) -> None:
        """`UsageError` for a rule nobody could follow."""
        if not 0 <= self.low_share <= 1:
            raise UsageError(f"top_up: low_share = {self.low_share}, but it is a share of a deposit, 0 to 1")
        for name in ("amount", "daily_max_credits", "balance_floor"):
            if (value := getattr(self, name)) < 0:
                raise UsageError(f"top_up: {name} = {value}, but it must be 0 or more")

    def is_low(self, available: int, *, deposit: int) -> bool:
        """The channel should hold more; `available` is neither owed nor held for open requests."""
        return available < deposit * self.low_share

    def compute_amount(self, *, deposit: int) -> int:
        """Credits of one top-up."""
        return self.amount or deposit

    def find_obstacle(self, amount: int, *, balance: int, locked: Locked, day: int) -> str | None:
        """Why `amount` must not be locked now, and what to do; None if it may."""
        free = balance - locked.under_way
        # Without a floor the ledger itself knows best what is there.
        if self.balance_floor and free - amount < self.balance_floor:
            return (
                f"{amount} credits are to be locked, but of {free} free ones {self.balance_floor} must stay: "
                "deposit more, or lower [top_up] balance_floor"
            )
        today = locked.on(day)
        if self.daily_max_credits and today + amount > self.daily_max_credits:
            return (
                f"{amount} credits are to be locked, and {today} were today already, at most {self.daily_max_credits} "
                "are allowed: wait for tomorrow (UTC), or raise [top_up] daily_max_credits"
            )
        return None


class _Row(msgspec.Struct, frozen=True):
    day: int
    credits: int


@dataclass(slots=True)
class Locked:
    """What was locked on the newest day, and what the ledger's balance does not show yet."""

    day: int = 0
    credits: int = 0
    under_way: int = field(default=0, compare=False)

    @classmethod
    def load(cls, store: Store) -> Locked:
        """As last committed."""
        row = store.get(TABLE, _TODAY)
        if row is None:
            return cls()
        read = msgspec.msgpack.decode(row, type=_Row)
        return cls(day=read.day, credits=read.credits)

    def on(self, day: int) -> int:
        """Credits locked on a day; the newest one known if the clock went back."""
        return self.credits if day <= self.day else 0

    def on_asked(self, amount: int, *, day: int) -> Batch:
        """The ledger is about to be asked: commit first."""
        self.day, self.credits = max(day, self.day), self.on(day) + amount
        self.under_way += amount
        return self._rows()

    def on_done(self, amount: int) -> None:
        """The ledger's balance shows it."""
        self.under_way -= amount

    def on_refused(self, amount: int, *, day: int) -> Batch:
        """Nothing was locked."""
        self.under_way -= amount
        if day == self.day:
            self.credits -= amount
        return self._rows()

    def _rows(self) -> Batch:
        return [(TABLE, _TODAY, msgspec.msgpack.encode(_Row(self.day, self.credits)))]

    def validate(self) -> None:
        """Own invariants."""
        assert self.credits >= 0 and self.under_way >= 0
