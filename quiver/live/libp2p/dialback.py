"""Dialling others back, so that they learn whether they can be reached (`/quiver/dialback/1.0.0`).

Nobody can be used to dial third parties: only the IP the asker is connected from is dialled, one small handshake each time,
and the number of them is limited per asker and over all. The dial comes from a fresh port under a key made for it, because
a firewall lets answers to the asker's own connection through.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable

from quiver.errors import QuiverError, StreamReset, WireCode
from quiver.identity.keys import KeyPair
from quiver.ids import PeerId
from quiver.live.keyfile import SEED_BYTES
from quiver.live.libp2p.host import Host, Kind
from quiver.ports import Clock, Stream
from quiver.quic.limits import Limits
from quiver.quic.rate import Bucket, Buckets, Rate
from quiver.values.dialback import DialBackAnswer, DialBackQuestion, Outcome
from quiver.values.peer import PeerInfo
from quiver.wire import multiaddr
from quiver.wire.protocols import DIALBACK

DIAL_TIMEOUT_S = 5.0
QUESTION_TIMEOUT_S = 5.0
# Dials under way, and askers who wait for theirs.
DIALS_MAX, ASKERS_MAX = 8, 64
PER_PEER, ALL = Rate(burst=6, per_s=1 / 30), Rate(burst=60, per_s=1.0)


class DialBackLimits:
    """Who may ask now. Rules of this class: no clock, callers pass `now`."""

    def __init__(self, now: float) -> None:
        self._all = Bucket(ALL, now)
        self._of_peer = Buckets(PER_PEER)

    def admit(self, peer: PeerId, now: float) -> bool:
        """The peer's own share comes first, so that one peer cannot use up everybody's."""
        return self._of_peer.take(peer, now) and self._all.take(now)


def check_address(address: bytes, asker_ip: str) -> Kind | str:
    """How to dial `address`; or, as text, why an asker connected from `asker_ip` may not have it dialled."""
    quic, tcp = multiaddr.quic_endpoint(address), multiaddr.tcp_endpoint(address)
    endpoint = quic or tcp
    if endpoint is None:
        return "only a numeric host over QUIC v1 or TCP is dialled back"
    if _ip(endpoint[0]) != _ip(asker_ip):
        return f"only your own IP is dialled back, and you are connected from {asker_ip}"
    if not endpoint[1]:
        return "port 0 cannot be dialled"
    return Kind.QUIC if quic else Kind.TCP


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """IPv4 in IPv6's clothes is IPv4."""
    ip = ipaddress.ip_address(text)
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


class DialBackService:
    """Answers on a started host from the moment it is made."""

    def __init__(
        self, host: Host, clock: Clock, *, timeout_s: float = DIAL_TIMEOUT_S,
        make_host: Callable[[str, Kind, float], Host] | None = None,
    ) -> None:  # fmt: skip
        """`make_host(ip, kind, timeout_s)` gives the host to dial from; by default one on a free port of this machine."""
        self._host = host
        self._clock = clock
        self._timeout_s = timeout_s
        self._make_host = make_host or _fresh_host
        self._limits = DialBackLimits(clock.now())
        self._dialling = asyncio.Semaphore(DIALS_MAX)
        self._askers = 0
        host.serve(DIALBACK, self._serve)

    async def _serve(self, stream: Stream) -> None:
        async with self._clock.deadline(QUESTION_TIMEOUT_S):
            question = await stream.receive()
        if not isinstance(question, DialBackQuestion):
            raise StreamReset(WireCode.PROTOCOL_VIOLATION, "a dial back begins with a question", peer_id=stream.peer_id)
        await stream.send(await self._answer(stream.peer_id, question))
        stream.finish()

    async def _answer(self, peer: PeerId, question: DialBackQuestion) -> DialBackAnswer:
        link = self._host.swarm.link_to(peer)
        if link is None:
            return DialBackAnswer(outcome=Outcome.REFUSED, reason="you are no longer connected")
        kind = check_address(question.address, link.address[0])
        if not isinstance(kind, Kind):
            return DialBackAnswer(outcome=Outcome.REFUSED, reason=kind)
        if self._askers >= ASKERS_MAX or not self._limits.admit(peer, self._clock.now()):
            return DialBackAnswer(outcome=Outcome.REFUSED, reason="too many dials back: ask another peer, or later")
        self._askers += 1
        try:
            async with self._dialling:
                return await self._dial(peer, question.address, kind, link.address[0])
        finally:
            self._askers -= 1

    async def _dial(self, peer: PeerId, address: bytes, kind: Kind, ip: str) -> DialBackAnswer:
        host = self._make_host(ip, kind, self._timeout_s)
        await host.start()
        try:
            host.learn(PeerInfo(peer_id=peer, addresses=(address,)))
            await host.pings.ping(peer, timeout_s=self._timeout_s)
        except QuiverError as error:
            return DialBackAnswer(outcome=Outcome.UNREACHED, reason=str(error)[:200])
        finally:
            await host.close()
        return DialBackAnswer(outcome=Outcome.REACHED)


def _fresh_host(ip: str, kind: Kind, timeout_s: float) -> Host:
    any_host = "::" if ":" in ip else "0.0.0.0"
    return Host(
        KeyPair(os.urandom(SEED_BYTES)), host=any_host, kinds=(kind,), listens=False,
        limits=Limits(handshake_timeout_s=timeout_s, idle_timeout_s=timeout_s),
    )  # fmt: skip
