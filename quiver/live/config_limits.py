"""`[limits]` of a node's config: how often others may try to connect. What the rates are for is in docs/protocol.md, 1."""

from __future__ import annotations

from quiver.live.config_file import Count, Positive, Section
from quiver.quic.limits import NodeLimits
from quiver.quic.rate import Rate

_DEFAULT = NodeLimits()


class RateSection(Section, frozen=True, kw_only=True):
    """`burst` at once, then `per_s` a second."""

    burst: Count
    per_s: Positive

    def rate(self) -> Rate:
        """As the host takes it."""
        return Rate(burst=self.burst, per_s=self.per_s)


class LimitsSection(Section, frozen=True, kw_only=True):
    """What is left out is as in docs/protocol.md."""

    address_rate: RateSection | None = None
    "Attempts from one IPv4 address or IPv6 /64; more where many peers stand behind one address."
    network_rate: RateSection | None = None
    "Of a public IPv4 /24 or IPv6 /48."
    loopback_rate: RateSection | None = None
    "Of a loopback address: less where peers come through a proxy on this machine."
    addresses_max: Count = _DEFAULT.addresses_max
    "Addresses, and networks, of which attempts are counted."
    known_addresses_max: Count = _DEFAULT.known_addresses_max
    "Addresses at which a peer proved itself in the last hour."

    def node_limits(self) -> NodeLimits:
        """As the host takes it."""
        address, network, loopback = self.address_rate, self.network_rate, self.loopback_rate
        return NodeLimits(
            connection_rate=_DEFAULT.connection_rate if address is None else address.rate(),
            network_rate=_DEFAULT.network_rate if network is None else network.rate(),
            loopback_rate=_DEFAULT.loopback_rate if loopback is None else loopback.rate(),
            addresses_max=self.addresses_max, known_addresses_max=self.known_addresses_max,
        )  # fmt: skip
