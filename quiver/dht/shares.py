"""Who holds how much of a store that is full, so that whoever holds most gives way to whoever holds less (max-min fairness).

Rules of this file: no clock and no I/O; every step costs the same however much is held. An owner is an address, where a
connection shows one, else a peer: peer ids cost nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Item = TypeVar("Item")
Owner = str | bytes


class Shares(Generic[Item]):
    """Items by owner, in the order they came; owners by how many they hold."""

    __slots__ = ("_held", "_levels")

    def __init__(self) -> None:
        self._held: dict[Owner, OrderedDict[Item, None]] = {}
        self._levels: list[dict[Owner, None]] = []
        "Who holds one item, two, and so on; the last is not empty."

    def count(self, owner: Owner) -> int:
        """How many items `owner` holds."""
        return len(self._held.get(owner, ()))

    def add(self, owner: Owner, item: Item) -> None:
        """`owner` now holds `item`, which is new."""
        items = self._held.setdefault(owner, OrderedDict())
        items[item] = None
        count = len(items)
        if count > 1:
            del self._levels[count - 2][owner]
        if count > len(self._levels):
            self._levels.append({})
        self._levels[count - 1][owner] = None

    def remove(self, owner: Owner, item: Item) -> None:
        """`owner` no longer holds `item`."""
        items = self._held[owner]
        del self._levels[len(items) - 1][owner]
        del items[item]
        if items:
            self._levels[len(items) - 1][owner] = None
        else:
            del self._held[owner]
        while self._levels and not self._levels[-1]:
            self._levels.pop()

    def heaviest(self) -> tuple[Owner, int] | None:
        """Who holds most, and how many items; None if nobody holds any."""
        return (next(iter(self._levels[-1])), len(self._levels)) if self._levels else None

    def newest(self, owner: Owner) -> Item:
        """What `owner` got last; what was spared comes after everything else."""
        return next(reversed(self._held[owner]))

    def spare(self, owner: Owner, item: Item) -> None:
        """It must not go: look at the others first."""
        self._held[owner].move_to_end(item, last=False)

    def validate(self) -> None:
        """Own invariants."""
        assert not self._levels or self._levels[-1]
        assert sum(map(len, self._levels)) == len(self._held)
        for owner, items in self._held.items():
            assert owner in self._levels[len(items) - 1]
