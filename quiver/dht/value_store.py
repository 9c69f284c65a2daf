"""Values we hold for others, and who decides what a value is: one validator for each namespace.

Rules of this file: no clock (callers pass `now`) and no I/O. A key is `/namespace/rest`; what no validator knows is refused.
Bounded by `VALUES_MAX` values of `VALUE_BYTES_MAX` each; when they are all taken, whoever put most (see `Shares`) loses its newest
to those who put less. A value counts for whoever put it and has least: nobody takes another's place by repeating its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from quiver.dht.shares import Owner, Shares
from quiver.values.kad import Record

VALUES_MAX = 1024
# A message of 64 KiB must hold it beside twenty closer peers.
VALUE_BYTES_MAX = 16 * 1024
# libp2p kad-dht: a value is dropped 48 h after it was last put, and its owner puts it again every 22 h.
VALUE_LIFETIME_S = 48 * 3600.0
VALUE_REPUBLISH_S = 22 * 3600.0


class Validator(Protocol):
    """What values of one namespace may be. Plain functions of their arguments: two nodes must agree."""

    def check(self, key: bytes, value: bytes) -> None:
        """Raise ValueError, with the reason, if `value` may not stand under `key`."""

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """Index of the best of several that passed `check`; of equally good ones the first."""


class ValueStore:
    """Checked values by key, oldest put first."""

    __slots__ = ("_validators", "_held", "_shares")

    def __init__(self, validators: Mapping[str, Validator]) -> None:
        self._validators = validators
        self._held: dict[bytes, tuple[float, Record, Owner]] = {}
        self._shares: Shares[bytes] = Shares()

    def __len__(self) -> int:
        return len(self._held)

    def _validator(self, key: bytes) -> Validator:
        """Of the key's namespace; ValueError if there is none."""
        parts = key.split(b"/", 2)
        if len(parts) == 3 and not parts[0] and parts[2]:
            validator = self._validators.get(parts[1].decode("utf-8", "replace"))
            if validator is not None:
                return validator
        raise ValueError(f"no validator for key {key[:40]!r}; namespaces here: {sorted(self._validators)}")

    def check_key(self, key: bytes) -> None:
        """Raise ValueError for a key of no known namespace."""
        self._validator(key)

    def check(self, key: bytes, value: bytes) -> None:
        """Raise ValueError unless `value` may stand under `key`."""
        validator = self._validator(key)
        if len(value) > VALUE_BYTES_MAX:
            raise ValueError(f"a value of {len(value)} bytes; at most {VALUE_BYTES_MAX} are held")
        validator.check(key, value)

    def select(self, key: bytes, values: Sequence[bytes]) -> bytes:
        """The best of values that passed `check`."""
        return values[self._validator(key).select(key, values)]

    def put(self, record: Record, now: float, *, owner: Owner = b"") -> bool:
        """Hold a checked record, unless a better value is held; False when there is no room. `owner`: who puts it; by default we do."""
        key, held = record.key, self.get(record.key, now)
        if held is not None and self.select(key, [held.value, record.value]) != record.value:
            return True
        if key not in self._held and len(self._held) >= VALUES_MAX:
            self.expire(now)
            if len(self._held) >= VALUES_MAX and not self._drop_one(owner):
                return False
        # Taken out and put back, so that the oldest stays first.
        before = self._drop(key)
        if before is not None and self._shares.count(before) < self._shares.count(owner):
            owner = before
        self._held[key] = (now + VALUE_LIFETIME_S, record, owner)
        self._shares.add(owner, key)
        return True

    def _drop_one(self, owner: Owner) -> bool:
        """The newest of whoever holds most, if that is more than `owner` would hold."""
        heaviest = self._shares.heaviest()
        if heaviest is None or heaviest[1] <= self._shares.count(owner) + 1:
            return False
        self._drop(self._shares.newest(heaviest[0]))
        return True

    def _drop(self, key: bytes) -> Owner | None:
        """Whose it was, if it was held."""
        entry = self._held.pop(key, None)
        if entry is None:
            return None
        self._shares.remove(entry[2], key)
        return entry[2]

    def get(self, key: bytes, now: float) -> Record | None:
        """What is held, if its time is not over."""
        entry = self._held.get(key)
        return entry[1] if entry is not None and entry[0] > now else None

    def expire(self, now: float) -> None:
        """Drop what was put too long ago."""
        while self._held:
            key = next(iter(self._held))
            if self._held[key][0] > now:
                return
            self._drop(key)

    def validate(self) -> None:
        """Own invariants."""
        assert len(self._held) <= VALUES_MAX
        ends = [expires_s for expires_s, *_ in self._held.values()]
        assert ends == sorted(ends)
        self._shares.validate()
        for key, (_, record, owner) in self._held.items():
            assert key == record.key and self._shares.count(owner)
            self.check(key, record.value)
