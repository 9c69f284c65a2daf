"""Provider records we hold for others: key -> who said it provides it, until the lease ends.

Rules of this file: no clock (callers pass `now`) and no I/O. Bounded by `record_keys_max` keys and
`records_per_key_max` records each. What is held is never pushed out by a newcomer: leases end soon enough, and an
attacker cannot flush honest records.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from quiver.ids import PeerId
from quiver.params import Params
from quiver.values.peer import PeerInfo


class RecordStore:
    """Records ordered by renewal within a key; all have the same lease, so the first expires first."""

    __slots__ = ("_params", "_records", "_next_end_s")

    def __init__(self, params: Params) -> None:
        self._params = params
        self._records: dict[bytes, dict[PeerId, tuple[float, PeerInfo]]] = {}
        self._next_end_s = 0.0
        "No lease ends before: who floods a full store must not make it look through all it holds each time."

    def __len__(self) -> int:
        return sum(len(records) for records in self._records.values())

    def add(self, key: bytes, info: PeerInfo, now: float) -> bool:
        """Hold or renew a record for `lease_s`; False when a limit refuses it."""
        records = self._records.get(key)
        if records is None:
            if len(self._records) >= self._params.record_keys_max:
                if now >= self._next_end_s:
                    self.expire(now)
                if len(self._records) >= self._params.record_keys_max:
                    return False
            records = self._records[key] = {}
        # Taken out and put back, so that renewal moves it to the end.
        elif records.pop(info.peer_id, None) is None and len(records) >= self._params.records_per_key_max:
            self._drop_expired(records, now)
            if len(records) >= self._params.records_per_key_max:
                return False
        records[info.peer_id] = (now + self._params.lease_s, info)
        return True

    def remove(self, key: bytes, peer_id: PeerId) -> None:
        """Forget one record, if it is held."""
        records = self._records.get(key)
        if records is not None and records.pop(peer_id, None) is not None and not records:
            del self._records[key]

    def providers(self, key: bytes, now: float, rng: random.Random) -> list[PeerInfo]:
        """Unexpired records of `key`, at most `provider_peers_max`, drawn at random."""
        records = self._records.get(key)
        if records is None:
            return []
        self._drop_expired(records, now)
        if not records:
            del self._records[key]
            return []
        infos = [info for _, info in records.values()]
        limit = self._params.provider_peers_max
        return infos if len(infos) <= limit else rng.sample(infos, limit)

    def unexpired(self, now: float) -> Iterator[tuple[bytes, PeerInfo]]:
        """Every record whose lease runs, with its key; nothing is dropped."""
        for key, records in self._records.items():
            for expires_s, info in records.values():
                if expires_s > now:
                    yield key, info

    def expire(self, now: float) -> None:
        """Drop every record whose lease ended."""
        for key in list(self._records):
            records = self._records[key]
            self._drop_expired(records, now)
            if not records:
                del self._records[key]
        self._next_end_s = min((next(iter(records.values()))[0] for records in self._records.values()), default=0.0)

    def _drop_expired(self, records: dict[PeerId, tuple[float, PeerInfo]], now: float) -> None:
        while records:
            peer_id, (expires_s, _) = next(iter(records.items()))
            if expires_s > now:
                return
            del records[peer_id]

    def validate(self) -> None:
        """Own invariants."""
        assert len(self._records) <= self._params.record_keys_max
        for records in self._records.values():
            assert 0 < len(records) <= self._params.records_per_key_max
            ends = [expires_s for expires_s, _ in records.values()]
            assert ends == sorted(ends)
