"""What a channel's receipts add up to, by day and model: a history that stays when the receipts are gone.

Rules of this file: no I/O but reading the store at start, no clock (days are those the receipts were issued on). The rows of a
receipt are committed with it, so the sum of a channel's cells is always what its log says, to the credit.
"""

from __future__ import annotations

import msgspec

from quiver.ids import ChannelId, ModelId
from quiver.ports import Batch, Store
from quiver.values.receipt import ReceiptBody

PROVIDER_TOTALS, PAYER_TOTALS = "provider_totals", "payer_totals"
DAY_MS = 86_400_000
# Days a channel is told apart for; what is older becomes one row a model, under day 0.
DAYS_MAX = 400
EARLIER = 0

Cell = tuple[int, ModelId]
"""(days since 1970, model)."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over receipts."""

    receipts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    amount: int = 0

    def plus(self, other: Totals) -> Totals:
        """Both together."""
        return Totals(
            receipts=self.receipts + other.receipts, prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens, amount=self.amount + other.amount,
        )  # fmt: skip


_ENCODE = msgspec.msgpack.Encoder().encode
_TOTALS = msgspec.msgpack.Decoder(Totals)


class ChannelTotals:
    """One channel's cells."""

    def __init__(self, table: str, channel: ChannelId) -> None:
        self.cells: dict[Cell, Totals] = {}
        self._table = table
        self._channel = channel

    @classmethod
    def load(cls, store: Store, table: str, channel: ChannelId) -> ChannelTotals:
        """As last committed."""
        self = cls(table, channel)
        for key, row in store.scan(table, channel):
            self.cells[int.from_bytes(key[32:36], "big"), ModelId(key[36:])] = _TOTALS.decode(row)
        return self

    def on_receipt(self, body: ReceiptBody) -> Batch:
        """One more receipt: rows to commit with it."""
        one = Totals(
            receipts=1, prompt_tokens=body.prompt_tokens, completion_tokens=body.completion_tokens, amount=body.amount
        )
        cell = (body.issued_ms // DAY_MS, body.model)
        before = self.cells.get(cell)
        if before is not None:
            # The usual case; else a day begins, and another may be too old now.
            self.cells[cell] = total = before.plus(one)
            return [(self._table, self._key(cell), _ENCODE(total))]
        changed = {cell: self._add(cell, one)}
        batch: list[tuple[str, bytes, bytes | None]] = []
        for old in self._outdated():
            to = (EARLIER, old[1])
            changed[to] = self._add(to, self.cells.pop(old))
            changed.pop(old, None)
            batch.append((self._table, self._key(old), None))
        batch += [(self._table, self._key(cell), _ENCODE(totals)) for cell, totals in changed.items()]
        return batch

    def _add(self, cell: Cell, more: Totals) -> Totals:
        self.cells[cell] = total = self.cells.get(cell, Totals()).plus(more)
        return total

    def _outdated(self) -> list[Cell]:
        days = sorted({day for day, _ in self.cells if day != EARLIER})
        kept = frozenset(days[-DAYS_MAX:])
        return [cell for cell in self.cells if cell[0] != EARLIER and cell[0] not in kept]

    def _key(self, cell: Cell) -> bytes:
        return self._channel + cell[0].to_bytes(4, "big") + cell[1]
