"""What was served, by epoch, provider and model: sums that go to the disk with the receipts they are of.

Rules of this file: no I/O but reading the store at start. Rows: one for each (epoch, provider account, model) with receipts, for as
long as the epoch is kept; of closed epochs nothing is in memory. Sums are of what both ends signed, so as true as these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from quiver.aggregator.window import epoch_key
from quiver.errors import UsageError
from quiver.ids import ADDRESS_BYTES, Address, ModelId
from quiver.ports import Store
from quiver.values.receipt import SignedReceipt

USAGE = "aggregator_usage"
_EPOCH_BYTES = 8


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """Row of `aggregator_usage`, under epoch8 | account20 | model32."""

    receipts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    credits: int = 0

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(
            receipts=self.receipts + other.receipts, prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens, credits=self.credits + other.credits,
        )  # fmt: skip


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `python -m quiver.live analytics`; bytes are hex, credits as the receipts say."""

    epoch: int | None = None
    provider: str | None = None
    model: str | None = None
    receipts: int
    prompt_tokens: int
    completion_tokens: int
    credits: int


_ENCODE = msgspec.msgpack.Encoder().encode
_SUMS = msgspec.msgpack.Decoder(Sums)
BY = ("provider", "model", "epoch")


class Usage:
    """Sums of the epochs that are open."""

    def __init__(self, store: Store, first_open: int) -> None:
        """As last committed, from epoch `first_open` on."""
        self._first_open = first_open
        self._sums = {
            key: _SUMS.decode(row)
            for key, row in store.scan(USAGE)
            if int.from_bytes(key[:_EPOCH_BYTES], "big") >= first_open
        }

    def add(
        self, epoch: int, provider: Address, receipts: Sequence[SignedReceipt], *, first_open: int
    ) -> list[tuple[str, bytes, bytes | None]]:
        """Rows to commit together with these receipts, which are new. All epochs before `first_open` are closed."""
        if first_open > self._first_open:
            self._first_open, bound = first_open, epoch_key(first_open)
            self._sums = {key: sums for key, sums in self._sums.items() if key[:_EPOCH_BYTES] >= bound}
        changed: dict[bytes, None] = {}
        for receipt in receipts:
            body = receipt.body
            key = epoch_key(epoch) + provider + body.model
            self._sums[key] = self._sums.get(key, Sums()).plus(
                Sums(
                    receipts=1, prompt_tokens=body.prompt_tokens, completion_tokens=body.completion_tokens,
                    credits=body.amount,
                )
            )  # fmt: skip
            changed[key] = None
        return [(USAGE, key, _ENCODE(self._sums[key])) for key in changed]

    def __len__(self) -> int:
        return len(self._sums)


def forget_usage(store: Store, epoch: int) -> Iterator[tuple[str, bytes, bytes | None]]:
    """Deletes an epoch's rows."""
    return ((USAGE, key, None) for key, _ in store.scan(USAGE, epoch_key(epoch)))


def summarise(store: Store, by: Iterable[str] = BY) -> list[UsageRow]:
    """Sums over all kept epochs, grouped by any of provider, model and epoch, in that order of the key.

    `UsageError` for another column.
    """
    columns = tuple(by)
    if unknown := [column for column in columns if column not in BY]:
        raise UsageError(f"analytics by {unknown[0]!r}: it is one of {', '.join(BY)}")
    groups: dict[tuple[int | None, Address | None, ModelId | None], Sums] = {}
    for key, row in store.scan(USAGE):
        after = _EPOCH_BYTES + ADDRESS_BYTES
        group = (
            int.from_bytes(key[:_EPOCH_BYTES], "big") if "epoch" in columns else None,
            Address(key[_EPOCH_BYTES:after]) if "provider" in columns else None,
            ModelId(key[after:]) if "model" in columns else None,
        )
        groups[group] = groups.get(group, Sums()).plus(_SUMS.decode(row))
    rows = []
    for epoch, provider, model in sorted(groups, key=lambda group: (group[0] or 0, group[1] or b"", group[2] or b"")):
        sums = groups[epoch, provider, model]
        rows.append(
            UsageRow(
                epoch=epoch, provider=None if provider is None else "0x" + provider.hex(),
                model=None if model is None else model.hex(), receipts=sums.receipts,
                prompt_tokens=sums.prompt_tokens, completion_tokens=sums.completion_tokens, credits=sums.credits,
            )
        )  # fmt: skip
    return rows
