"""Provider records we hold for others: key -> who said it provides it, until the lease ends.

Rules of this file: no clock (callers pass `now`) and no I/O. Bounded by `record_keys_max` keys, `records_per_key_max` records
each and `RECORDS_MAX` in all. A newcomer pushes out nobody who holds as little as it would itself: where there is no room, the
owner (see `Shares`) with most records loses its newest. So one owner may use what nobody else needs, and not more.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from quiver.dht.shares import Owner, Shares
from quiver.ids import PeerId
from quiver.params import Params
from quiver.values.peer import PeerInfo

# Of all keys together: a few MiB, and more than the busiest simulated node holds.
RECORDS_MAX = 16_384
# Addresses kept of a record, and the longest (a certificate hash or a relay's name fits): further ones are not remembered.
RECORD_ADDRESSES_MAX, ADDRESS_BYTES_MAX = 16, 256
# Keys looked at for one that may go, each time a new one has no room; the next time looks at others.
LOOKS_MAX = 16

_Held = tuple[float, PeerInfo, str | None]
"""When the lease ends, who, and the address it said so from, where that is known."""


class RecordStore:
    """Records ordered by renewal within a key; all have the same lease, so the first expires first."""

    __slots__ = ("_params", "_records", "_count", "_next_end_s", "_shares", "_has_places")

    def __init__(self, params: Params) -> None:
        self._params = params
        self._records: dict[bytes, dict[PeerId, _Held]] = {}
        self._count = 0
        self._next_end_s = 0.0
        "No lease ends before: who floods a full store must not make it look through all it holds each time."
        self._shares: Shares[tuple[bytes, PeerId]] | None = None
        "Kept once the store has been full: few stores ever are."
        self._has_places = False

    def __len__(self) -> int:
        return self._count

    def add(self, key: bytes, info: PeerInfo, now: float, *, place: str | None = None) -> bool:
        """Hold or renew a record for `lease_s`; False when a limit refuses it. `place` is the address it came from."""
        records = self._records.get(key)
        # Taken out and put back, so that renewal moves it to the end.
        if records is not None and info.peer_id in records:
            self._remove(key, records, info.peer_id)
        elif not self._make_room(key, records, place or info.peer_id, now):
            return False
        # Whoever made room may have been the last of this key.
        records = self._records.setdefault(key, {})
        records[info.peer_id] = (now + self._params.lease_s, _bounded(info), place)
        self._count += 1
        self._has_places = self._has_places or place is not None
        if self._shares is not None:
            self._shares.add(place or info.peer_id, (key, info.peer_id))
        return True

    def remove(self, key: bytes, peer_id: PeerId) -> None:
        """Forget one record, if it is held."""
        records = self._records.get(key)
        if records is not None and peer_id in records:
            self._remove(key, records, peer_id)
            if not records:
                del self._records[key]

    def providers(self, key: bytes, now: float, rng: random.Random) -> list[PeerInfo]:
        """Unexpired records of `key`, at most `provider_peers_max`, drawn at random."""
        records = self._records.get(key)
        if records is None:
            return []
        self._drop_expired(key, records, now)
        if not records:
            del self._records[key]
            return []
        infos = [info for _, info, _ in records.values()]
        limit = self._params.provider_peers_max
        return infos if len(infos) <= limit else rng.sample(infos, limit)

    def unexpired(self, now: float) -> Iterator[tuple[bytes, PeerInfo]]:
        """Every record whose lease runs, with its key; nothing is dropped."""
        for key, records in self._records.items():
            for expires_s, info, _ in records.values():
                if expires_s > now:
                    yield key, info

    def expire(self, now: float) -> None:
        """Drop every record whose lease ended."""
        for key in list(self._records):
            records = self._records[key]
            self._drop_expired(key, records, now)
            if not records:
                del self._records[key]
        self._next_end_s = min((next(iter(records.values()))[0] for records in self._records.values()), default=0.0)

    # ---- room for one more

    def _make_room(self, key: bytes, records: dict[PeerId, _Held] | None, owner: Owner, now: float) -> bool:
        """There is, or somebody who holds more than `owner` gives way."""
        params = self._params
        if records is None:
            if self._is_full(lambda: len(self._records) >= params.record_keys_max, now) and not self._drop_key(owner):
                return False
        elif len(records) >= params.records_per_key_max:
            self._drop_expired(key, records, now)
            if len(records) >= params.records_per_key_max and not self._drop_of_key(key, records, owner):
                return False
        return not self._is_full(lambda: self._count >= RECORDS_MAX, now) or self._drop_record(owner)

    def _is_full(self, is_full: Callable[[], bool], now: float) -> bool:
        """Also without what has expired."""
        if is_full() and now >= self._next_end_s:
            self.expire(now)
        return is_full()

    def _drop_record(self, owner: Owner) -> bool:
        """The newest record of whoever holds most."""
        shares = self._counted()
        heaviest = shares.heaviest()
        if heaviest is None or heaviest[1] <= shares.count(owner) + 1:
            return False
        self.remove(*shares.newest(heaviest[0]))
        return True

    def _drop_key(self, owner: Owner) -> bool:
        """A key of whoever holds most, if nobody with less than that has a record under it."""
        shares = self._counted()
        heaviest, enough = shares.heaviest(), shares.count(owner) + 1
        if heaviest is None or heaviest[1] <= enough:
            return False
        for _ in range(min(LOOKS_MAX, heaviest[1])):
            item = shares.newest(heaviest[0])
            records = self._records[item[0]]
            if all(shares.count(place or peer) > enough for peer, (_, _, place) in records.items()):
                for peer in list(records):
                    self.remove(item[0], peer)
                return True
            shares.spare(heaviest[0], item)
        return False

    def _drop_of_key(self, key: bytes, records: dict[PeerId, _Held], owner: Owner) -> bool:
        """The newest record of the address that has most under this key. Peers alone have one each."""
        if not self._has_places:
            return False
        counts: Counter[Owner] = Counter(place or peer for peer, (_, _, place) in records.items())
        heaviest, count = counts.most_common(1)[0]
        if count <= counts[owner] + 1:
            return False
        self._remove(key, records, next(peer for peer in reversed(records) if (records[peer][2] or peer) == heaviest))
        return True

    # ---- bookkeeping

    def _counted(self) -> Shares[tuple[bytes, PeerId]]:
        if self._shares is None:
            self._shares = Shares()
            for key, records in self._records.items():
                for peer, (_, _, place) in records.items():
                    self._shares.add(place or peer, (key, peer))
        return self._shares

    def _remove(self, key: bytes, records: dict[PeerId, _Held], peer_id: PeerId) -> None:
        _, _, place = records.pop(peer_id)
        self._count -= 1
        if self._shares is not None:
            self._shares.remove(place or peer_id, (key, peer_id))

    def _drop_expired(self, key: bytes, records: dict[PeerId, _Held], now: float) -> None:
        while records:
            peer_id, (expires_s, _, _) = next(iter(records.items()))
            if expires_s > now:
                return
            self._remove(key, records, peer_id)

    def validate(self) -> None:
        """Own invariants."""
        assert len(self._records) <= self._params.record_keys_max
        assert self._count == sum(map(len, self._records.values())) <= RECORDS_MAX
        for records in self._records.values():
            assert 0 < len(records) <= self._params.records_per_key_max
            ends = [expires_s for expires_s, _, _ in records.values()]
            assert ends == sorted(ends)
        if self._shares is not None:
            self._shares.validate()
            owners = Counter(
                place or peer for records in self._records.values() for peer, (_, _, place) in records.items()
            )
            assert all(self._shares.count(owner) == count for owner, count in owners.items())


def _bounded(info: PeerInfo) -> PeerInfo:
    """Without addresses that nobody honest has."""
    if len(info.addresses) <= RECORD_ADDRESSES_MAX and all(len(one) <= ADDRESS_BYTES_MAX for one in info.addresses):
        return info
    short = [one for one in info.addresses if len(one) <= ADDRESS_BYTES_MAX]
    return msgspec.structs.replace(info, addresses=tuple(short[:RECORD_ADDRESSES_MAX]))
