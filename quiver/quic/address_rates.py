"""How often connections may be tried, by where they come from: an address, and the network around it.

Rules of this file: no clock (callers pass `now`), no I/O. Whoever floods has many addresses, an honest peer has few. So a bucket is
forgotten only when it is full again, because then nothing is forgotten with it. While every place is taken, strangers share one
bucket; addresses at which a peer has proved itself have places that no stranger can take.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from itertools import islice

import msgspec

from quiver.quic.limits import NodeLimits, Refusal
from quiver.quic.rate import Bucket, Rate

# An address is known for this long after a peer that proved itself there was last connected.
KNOWN_S = 3600.0


class Origin(msgspec.Struct, frozen=True):
    """Where an attempt comes from."""

    address: str
    "An IPv4 address or an IPv6 /64: what one machine has."
    network: str | None
    "The IPv4 /24 or IPv6 /48 of a public address; a private network is its owner's business."
    is_loopback: bool


def origin_of(host: str) -> Origin:
    """Of a numeric host."""
    ip = ipaddress.ip_address(host)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    own, around = (32, 24) if ip.version == 4 else (64, 48)
    network = None if ip.is_private else _network(ip, around)
    return Origin(str(ip) if ip.is_loopback or own == 32 else _network(ip, own), network, ip.is_loopback)


def _network(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int) -> str:
    return str(ipaddress.ip_network((ip, bits), strict=False))


class Places:
    """A bucket for each key, at most `most` of them, and only those that are full again are forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._buckets: dict[str, Bucket] = {}
        "Used longest ago first."

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, rate: Rate, now: float) -> bool | None:
        """One token of `key`'s, if there is one; None if there is no place for another key."""
        # Two for each one that comes: the table shrinks after a flood, and no attempt pays for all of it.
        for oldest in list(islice(self._buckets, 2)):
            if self._buckets[oldest].is_full(now):
                del self._buckets[oldest]
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            if len(self._buckets) >= self._most:
                return None
            bucket = Bucket(rate, now)
        self._buckets[key] = bucket
        return bucket.take(now)


class Gate:
    """The rates of one kind of comer."""

    def __init__(self, limits: NodeLimits) -> None:
        self._limits = limits
        self._addresses = Places(limits.addresses_max)
        self._networks = Places(limits.addresses_max)
        self._crowd = Bucket(limits.network_rate, 0.0)

    def take(self, origin: Origin, now: float) -> Refusal | None:
        """One attempt, or why not."""
        limits = self._limits
        own = limits.loopback_rate if origin.is_loopback else limits.connection_rate
        # The address first: who has used up its own takes nothing from its neighbours.
        ways = [(self._addresses, origin.address, own, Refusal.CONNECTION_RATE)]
        if origin.network is not None:
            ways.append((self._networks, origin.network, limits.network_rate, Refusal.NETWORK_RATE))
        has_place = True
        for places, key, rate, refusal in ways:
            taken = places.take(key, rate, now)
            if taken is False:
                return refusal
            has_place = has_place and taken is not None
        return None if has_place or self._crowd.take(now) else Refusal.CROWD

    def __len__(self) -> int:
        return len(self._addresses) + len(self._networks)


class Known:
    """Addresses at which peers proved themselves, at most `most` of them. The network that has most of them gives way, to one
    that would then have fewer: so a crowd pushes out its own, and nobody else's."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._until_s: dict[str, tuple[float, str]] = {}
        "Address -> (when it is forgotten, its network), soonest first."
        self._of_network: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._until_s)

    def has(self, origin: Origin, now: float) -> bool:
        """A peer was connected from there, not long ago."""
        known = self._until_s.get(origin.address)
        return known is not None and known[0] > now

    def keep(self, origin: Origin, now: float) -> None:
        """A peer that proved itself is connected from there."""
        network = origin.network or origin.address
        self._forget(origin.address)
        for address in list(islice(self._until_s, 2)):
            if self._until_s[address][0] <= now:
                self._forget(address)
        if len(self._until_s) >= self._most and not self._make_room(network):
            return
        self._until_s[origin.address] = (now + KNOWN_S, network)
        self._of_network[network] += 1

    def _make_room(self, network: str) -> bool:
        largest, count = max(self._of_network.items(), key=lambda item: item[1])
        if count <= self._of_network[network] + 1 and largest != network:
            return False
        self._forget(next(address for address, (_, around) in self._until_s.items() if around == largest))
        return True

    def _forget(self, address: str) -> None:
        known = self._until_s.pop(address, None)
        if known is not None:
            self._of_network[known[1]] -= 1
            if not self._of_network[known[1]]:
                del self._of_network[known[1]]

    def validate(self) -> None:
        """Own invariants."""
        assert len(self._until_s) <= self._most
        assert self._of_network == Counter(network for _, network in self._until_s.values())


class AddressRates:
    """Rates of attempts to connect. Three gates, so that nobody spends another's: a source address that was not validated is
    anybody's claim, and a stranger's flood is no business of peers that are known."""

    def __init__(self, limits: NodeLimits) -> None:
        self._claimed = Gate(limits)
        self._strangers = Gate(limits)
        self._friends = Gate(limits)
        self._known = Known(limits.known_addresses_max)

    def take(self, host: str, now: float, *, is_validated: bool) -> Refusal | None:
        """One attempt from `host`, or why not."""
        origin = origin_of(host)
        if not is_validated:
            return self._claimed.take(origin, now)
        return (self._friends if self._known.has(origin, now) else self._strangers).take(origin, now)

    def keep(self, host: str, now: float) -> None:
        """A peer that proved itself is connected from `host`."""
        self._known.keep(origin_of(host), now)

    def validate(self) -> None:
        """Own invariants."""
        self._known.validate()
