"""Who may connect: bounds of the node and of an address group, how often, and what is half-open.

Rules of this file: no clock (callers pass `now`), no I/O. A datagram's source address proves nothing: what was not validated
(RFC 9000, 8.1) gets half of a group's room and a rate of its own, so that nobody uses up another's by naming its address.
"""

from __future__ import annotations

from collections import Counter

from quiver.quic.address_rates import AddressRates
from quiver.quic.limits import Quota, Refusal, Tally, address_groups
from quiver.quic.link import Link
from quiver.quic.streams import CLOSE_RESOURCE_LIMIT


class Admission:
    """Counts every link from its beginning to its end."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        limits = quota.limits
        self._connections = Tally(limits.connections)
        self._groups: Counter[str] = Counter()
        self._half_open: dict[Link, float] = {}
        "Incoming links whose peer is not known, oldest first -> when they began."
        self._rates = AddressRates(limits)

    def judge(self, host: str, now: float, *, is_validated: bool) -> Refusal | None:
        """May one more come from `host`? RETRY: only if it shows that it receives what is sent there. Refusals are counted."""
        refusal = self._judge(host, now, is_validated=is_validated)
        if refusal is not None:
            self._quota.refuse(refusal)
        return refusal

    def _judge(self, host: str, now: float, *, is_validated: bool) -> Refusal | None:
        limits = self._quota.limits
        if not self._connections.has_room(is_incoming=True):
            return Refusal.CONNECTIONS
        groups = address_groups(host)
        rooms = zip(groups, (limits.connections_per_group_max, limits.connections_per_site_max), strict=False)
        is_crowded = False
        for group, most in rooms:
            if self._groups[group] >= most:
                return Refusal.CONNECTIONS_PER_GROUP
            is_crowded = is_crowded or 2 * self._groups[group] >= most
        if not is_validated:
            if is_crowded or len(self._half_open) >= limits.retry_threshold:
                return Refusal.RETRY
        refusal = self._rates.take(host, now, is_validated=is_validated)
        if refusal is not None:
            return refusal if is_validated else Refusal.RETRY
        if len(self._half_open) >= limits.half_open_max and not self._evict(now):
            return Refusal.HALF_OPEN
        return None

    def _evict(self, now: float) -> bool:
        """The oldest half-open link makes room, if an honest one would have proved itself by now."""
        oldest, since_s = next(iter(self._half_open.items()))
        if now - since_s < self._quota.limits.half_open_grace_s:
            return False
        del self._half_open[oldest]
        self._quota.refuse(Refusal.HALF_OPEN)
        oldest.close(CLOSE_RESOURCE_LIMIT, "too many half-open connections: the oldest make room")
        return True

    def has_room_to_dial(self) -> bool:
        """One more of ours is within the limits."""
        return self._connections.has_room(is_incoming=False)

    def add(self, link: Link, now: float) -> None:
        """A link begins."""
        self._connections.add(1, is_incoming=not link.is_dialled)
        for group in address_groups(link.address[0]):
            self._groups[group] += 1
        if not link.is_dialled:
            self._half_open[link] = now

    def proved(self, link: Link, now: float) -> None:
        """Its peer is known."""
        self._half_open.pop(link, None)
        self.keep(link, now)

    def keep(self, link: Link, now: float) -> None:
        """A peer that proved itself was connected until now."""
        self._rates.keep(link.address[0], now)

    def closed(self, link: Link) -> None:
        """It ended, and may still wait for the peer to hear of it."""
        if self._half_open.pop(link, None) is not None:
            self._quota.refuse(Refusal.HANDSHAKE)

    def remove(self, link: Link) -> None:
        """Nothing of it is left."""
        self._connections.add(-1, is_incoming=not link.is_dialled)
        for group in address_groups(link.address[0]):
            self._groups[group] -= 1
            if not self._groups[group]:
                del self._groups[group]

    @property
    def half_open(self) -> int:
        """Incoming links whose peer is not known."""
        return len(self._half_open)
