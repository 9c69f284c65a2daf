"""What was served and where its money is: receipts, acknowledgements and the ledger in one table that adds up. Pure.

Rules of this file: served = claimed + unclaimed + owed + lost, in every row and in the sum; the sum of `claimed` is what the ledger
paid. A channel pays for its receipts in order, so what it paid is what it served first: by day, within a day by model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

import msgspec

from quiver.ids import ChannelId, ModelId
from quiver.receipts.totals import DAY_MS, EARLIER, Cell, Totals
from quiver.settlement.books import Books, ChannelBook

# Served before this node's memory begins: its disk was lost.
UNKNOWN = ModelId(bytes(32))


class By(StrEnum):
    """What a row stands for."""

    TOTAL = "total"
    MODEL = "model"
    PEER = "peer"
    DAY = "day"


class ChannelReport(msgspec.Struct, frozen=True, kw_only=True):
    """One channel as this node's store has it."""

    channel: ChannelId
    peer: str
    "Who is on the other side, as text."
    cells: Mapping[Cell, Totals]
    served: int
    "Credits of all receipts."
    acknowledged: int
    "Credits the payer has signed for."


class Earning(msgspec.Struct, frozen=True, kw_only=True):
    """One row, in credits but for `gas_wei`."""

    key: str
    receipts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    served: int = 0
    owed: int = 0
    "Delivered, not signed for."
    acknowledged: int = 0
    claimed: int = 0
    unclaimed: int = 0
    "Signed for and still to claim."
    at_risk: int = 0
    "The part of `owed` and `unclaimed` that can be lost: unsigned, beyond the deposit, or of a payer that is leaving."
    lost: int = 0
    "Of channels that are closed."
    in_dispute: int = 0
    "Staked on open challenges."
    gas_wei: int = 0
    net: int = 0
    "claimed + rewards - stakes lost."
    sold: int = 0
    "Charged to a gateway's clients that have an account."
    cost: int = 0
    "Of what was sold: what providers were owed for it when it ended. The part of `served` that was for nobody's account is not in it."
    margin: int = 0
    "sold - cost."

    def plus(self, other: Earning) -> Earning:
        """Both under this row's key."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in NUMBERS}
        return Earning(key=self.key, **sums)


NUMBERS = Earning.__struct_fields__[1:]
# The rows of what no channel moved: gas, stakes and rewards; and of what clients were charged, whoever served them.
ACCOUNT, CLIENTS = "(account)", "(clients)"


class SalesTotals(Protocol):
    """What a gateway sold on one day of one model, in credits."""

    @property
    def sold(self) -> int:
        """Charged to clients."""

    @property
    def cost(self) -> int:
        """Owed to providers for it."""


def compute_earnings(
    reports: Iterable[ChannelReport],
    books: Books,
    *,
    by: By = By.TOTAL,
    since_ms: int = 0,
    pays: bool = False,
    sales: Mapping[Cell, SalesTotals] = MappingProxyType({}),
) -> list[Earning]:
    """Rows by key; `pays`: this node is the payer, so its net is what it spent. Days before `since_ms` are left out.

    Gas, stakes and rewards belong to no channel: by model and peer they have a row of their own. So do, by peer, `sales`.
    """
    rows: dict[str, Earning] = {}

    def add(key: str, earning: Earning) -> None:
        rows[key] = rows.get(key, Earning(key=key)).plus(earning)

    since_day = since_ms // DAY_MS
    for report in reports:
        for (day, model), earning in _split(report, books.channels.get(report.channel), pays):
            if day >= since_day:
                add(_key(by, report.peer, day, model), earning)
    for (day, model), sale in sales.items():
        if day >= since_day:
            earning = Earning(key="", sold=sale.sold, cost=sale.cost, margin=sale.sold - sale.cost)
            add(_key(by, CLIENTS, day, model), earning)
    for move in books.moves:
        if move.at_ms // DAY_MS >= since_day:
            earning = Earning(key="", gas_wei=move.gas_wei, net=move.reward - move.stake_lost)
            add(_account_key(by, move.at_ms // DAY_MS), earning)
    if books.in_dispute:
        add(ACCOUNT if by is not By.TOTAL else By.TOTAL, Earning(key="", in_dispute=books.in_dispute))
    return [rows[key] for key in sorted(rows)]


def compute_sum(rows: Iterable[Earning]) -> Earning:
    """All rows together."""
    total = Earning(key=By.TOTAL)
    for row in rows:
        total = total.plus(row)
    return total


def day_text(day: int) -> str:
    """ISO date of a day since 1970; `earlier` for what is not told apart any more."""
    if day == EARLIER:
        return "earlier"
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


def _key(by: By, peer: str, day: int, model: ModelId) -> str:
    match by:
        case By.MODEL:
            return "unknown" if model == UNKNOWN else model.hex()
        case By.PEER:
            return peer
        case By.DAY:
            return day_text(day)
        case By.TOTAL:
            return str(By.TOTAL)


def _account_key(by: By, day: int) -> str:
    return {By.TOTAL: str(By.TOTAL), By.DAY: day_text(day)}.get(by, ACCOUNT)


def _split(report: ChannelReport, book: ChannelBook | None, pays: bool) -> list[tuple[Cell, Earning]]:
    """One earning a cell, oldest first; each takes from what is left of every sum."""
    book = book or _NEVER_SEEN
    acknowledged = max(report.acknowledged, book.paid)
    served = max(report.served, acknowledged)
    cells = dict(sorted(report.cells.items()))
    missing = served - sum(cell.amount for cell in cells.values())
    if missing:
        first = (EARLIER, UNKNOWN)
        cells = {first: cells.pop(first, Totals()).plus(Totals(amount=missing)), **cells}
    # Where along the channel's credits each limit lies.
    backed = min(acknowledged, book.locked)
    made, at = [], 0
    for cell, totals in cells.items():
        end = at + totals.amount
        claimed = _within(at, end, 0, book.paid)
        signed = _within(at, end, 0, acknowledged)
        owed, unclaimed = (0, 0) if book.closed else (totals.amount - signed, signed - claimed)
        at_risk = owed + (
            unclaimed if book.exit_at_ms is not None else _within(at, end, max(backed, book.paid), acknowledged)
        )
        made.append((cell, Earning(
            key="", receipts=totals.receipts, prompt_tokens=totals.prompt_tokens,
            completion_tokens=totals.completion_tokens, served=totals.amount, owed=owed, acknowledged=signed,
            claimed=claimed, unclaimed=unclaimed, at_risk=0 if book.closed else at_risk,
            lost=totals.amount - claimed if book.closed else 0, net=-claimed if pays else claimed,
        )))  # fmt: skip
        at = end
    return made


def _within(start: int, end: int, low: int, high: int) -> int:
    """How much of start..end lies in low..high."""
    return max(0, min(end, high) - max(start, low))


# A channel whose opening is not final yet, or was taken back.
_NEVER_SEEN = ChannelBook(payer=b"", provider=b"", locked=0)  # type: ignore[arg-type]
