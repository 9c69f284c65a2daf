"""To whom this node is connected, and how it gets there: one connection a peer in use, dials shared, backed off and bounded.

It knows no sockets: each `Dialer` (QUIC, TCP) turns an address into a `Link`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from quiver.errors import PeerUnreachable
from quiver.ids import PeerId, short
from quiver.ports import Clock
from quiver.quic.address_book import AddressBook
from quiver.quic.admission import Admission
from quiver.quic.limits import Quota, Refusal
from quiver.quic.link import Link
from quiver.quic.memory import Budget
from quiver.quic.streams import CLOSE_SHUTDOWN, CLOSE_SUPPLANTED
from quiver.values.peer import PeerInfo
from quiver.wire import multiaddr

DIALS_MAX = 64
# The next address of a peer is tried beside the one before when that has not answered for this long (as Happy Eyeballs).
DIAL_STAGGER_S = 0.25
# An address that failed is left alone for this long, doubled with each failure in a row.
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.25, 300.0
# An operator named this peer, as the aggregator: nobody can take its place, and after an outage it is wanted soon.
BACKOFF_PINNED_S_MAX = 10.0
BACKOFFS_MAX = 4096
# Two nodes that dialled each other at once keep both connections until the one they agree to leave is silent.
DUPLICATE_CHECK_S = 2.0


class Dialer(Protocol):
    """One kind of connection."""

    def can_dial(self, address: bytes) -> bool:
        """The address is of this kind and can be reached from here."""

    def dial(self, address: bytes, peer: PeerId) -> Link:
        """Start a connection; `link.ready` tells how it went."""

    def give_up(self, link: Link) -> None:
        """Another address was quicker."""


class Swarm:
    """`own` is this node's peer id."""

    def __init__(self, own: PeerId, *, clock: Clock, loop: asyncio.AbstractEventLoop, quota: Quota) -> None:
        self.quota = quota
        self.admission = Admission(self.quota)
        self.budget = Budget(self.quota)
        self.book = AddressBook()
        self.dialers: list[Dialer] = []
        "Most preferred kind first."
        self.is_closed = False
        self.on_admitted: Callable[[PeerId], None] | None = None
        "Called with the peer of each new connection."
        self._own = own
        self._clock = clock
        self._loop = loop
        self._links: dict[Link, None] = {}
        self._by_peer: dict[PeerId, dict[Link, None]] = {}
        self._dials: dict[PeerId, asyncio.Task[Link | PeerUnreachable]] = {}
        self._dialling = asyncio.Semaphore(DIALS_MAX)
        self._backoffs: dict[bytes, tuple[float, float]] = {}
        "Address -> (until, seconds of the next one)."

    # ---- links, as their endpoints report them

    def judge_incoming(self, host: str, *, is_validated: bool) -> Refusal | None:
        """Why one more connection from `host` is refused, or None."""
        return self.admission.judge(host, self._clock.now(), is_validated=is_validated)

    def add(self, link: Link) -> None:
        """A connection begins."""
        self._links[link] = None
        self.admission.add(link, self._clock.now())
        link.driver.on_refusal = self.quota.refuse
        link.driver.lease.join(self.budget)

    def admit(self, link: Link, peer_id: PeerId) -> str | None:
        """`link` proved to be `peer_id`; returns why it must be closed, or None."""
        self.admission.proved(link, self._clock.now())
        links = self._by_peer.setdefault(peer_id, {})
        most = self.quota.limits.connections_per_peer_max
        if len(links) >= most:
            self.quota.refuse(Refusal.CONNECTIONS_PER_PEER)
            return f"more than {most} connections"
        for other in links:
            # A peer that comes again may have forgotten the others.
            other.driver.probe(self._clock.now())
            other.transmit_soon()
        links[link] = None
        if link.is_dialled and link.return_address is not None:
            self.book.prove(peer_id, link.return_address, self._clock.now())
        elif peer_id not in self.book and link.return_address is not None:
            # Nodes dial from the port they listen on, so where a peer came from is where it can be reached.
            self.book.learn(PeerInfo(peer_id=peer_id, addresses=(link.return_address,)), self._clock.now())
        if len(links) > 1:
            self._loop.call_later(DUPLICATE_CHECK_S, self._leave_duplicates, peer_id)
        elif self.on_admitted is not None:
            self.on_admitted(peer_id)
        return None

    def on_closed(self, link: Link) -> None:
        """`link` ended: nobody new gets it."""
        self.admission.closed(link)
        peer_id = link.driver.peer_id
        if peer_id is not None and (links := self._by_peer.get(peer_id)) is not None and link in links:
            del links[link]
            self.book.keep(peer_id, self._clock.now())
            self.admission.keep(link, self._clock.now())
            if not links:
                del self._by_peer[peer_id]
                self.quota.forget(peer_id)

    def remove(self, link: Link) -> None:
        """Nothing of `link` is left."""
        self.on_closed(link)
        if link in self._links:
            del self._links[link]
            self.admission.remove(link)
            link.driver.lease.leave()

    @property
    def links(self) -> tuple[Link, ...]:
        """Every connection that is not gone, oldest first."""
        return tuple(self._links)

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Everyone we are connected to, in the order they came."""
        return tuple(self._by_peer)

    def close_peer(self, peer: PeerId, code: int, reason: str) -> None:
        """End every connection to a peer."""
        for link in list(self._by_peer.get(peer, ())):
            link.close(code, reason)

    def link_to(self, peer: PeerId) -> Link | None:
        """The connection in use. Of two, both ends choose the one that the smaller peer id dialled, then the oldest.

        None is used whose peer does not answer: it may have begun another life, and a new connection reaches it.
        """
        links = self._by_peer.get(peer)
        if not links:
            return None
        oldest = None
        for link in links:
            if link.driver.is_silent:
                continue
            if link.is_dialled == (self._own < peer):
                return link
            oldest = oldest or link
        return oldest

    def _leave_duplicates(self, peer: PeerId) -> None:
        links = self._by_peer.get(peer, {})
        kept = self.link_to(peer)
        waiting = False
        for link in list(links):
            if link is kept:
                continue
            if link.driver.streams_open:
                waiting = True
            elif link.is_dialled:
                # Only its dialler ends it, so that nobody closes what the other side is about to use.
                link.close(CLOSE_SUPPLANTED, "another connection to this peer is in use")
        if waiting:
            self._loop.call_later(DUPLICATE_CHECK_S, self._leave_duplicates, peer)

    # ---- dialling

    async def connect(self, peer: PeerId) -> Link:
        """The connection in use, or a new one. `PeerUnreachable` says what each address answered."""
        if self.is_closed:
            raise PeerUnreachable(f"not dialling {short(peer)}: this node is shutting down")
        if (link := self.link_to(peer)) is not None:
            return link
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._dials[peer] = self._loop.create_task(self._dial(peer))
            dial.add_done_callback(lambda _: self._dials.pop(peer, None))
        # Several callers share a dial: one that gives up does not end it for the others.
        result = await asyncio.shield(dial)
        if isinstance(result, PeerUnreachable):
            raise PeerUnreachable(str(result))
        return result

    async def _dial(self, peer: PeerId) -> Link | PeerUnreachable:
        """Returns the failure, because a shared task's error belongs to no single caller."""
        async with self._dialling:
            ways, reasons = self._ways(peer)
            if not ways and not reasons:
                return PeerUnreachable(f"no address of {short(peer)} that can be dialled from here is known")
            link = await self._race(peer, ways, reasons)
        return link or PeerUnreachable(f"{short(peer)} could not be dialled: {'; '.join(reasons)}")

    def _ways(self, peer: PeerId) -> tuple[list[tuple[Dialer, bytes]], list[str]]:
        """(what to try, in order; why the others are not tried)."""
        now, reasons = self._clock.now(), []
        ways = []
        addresses = self.book.addresses(peer, now)
        for dialer in self.dialers:
            for address in addresses:
                if not dialer.can_dial(address):
                    continue
                until_s, _ = self._backoffs.get(address + peer, (0.0, 0.0))
                if until_s > now:
                    reasons.append(f"{multiaddr.to_text(address)}: failed before, left alone for {until_s - now:.1f} s")
                else:
                    ways.append((dialer, address))
        return ways, reasons

    async def _race(self, peer: PeerId, ways: list[tuple[Dialer, bytes]], reasons: list[str]) -> Link | None:
        """One address after another, each with a head start; the first that is ready wins."""
        running: dict[Link, tuple[Dialer, bytes]] = {}
        try:
            while ways or running:
                if ways and not self.is_closed:
                    dialer, address = ways.pop(0)
                    if not self.admission.has_room_to_dial():
                        reasons.append(f"{len(self._links)} connections are open")
                        ways.clear()
                        continue
                    running[dialer.dial(address, peer)] = (dialer, address)
                if not running:
                    break
                await self._wait_any(list(running), DIAL_STAGGER_S if ways else None)
                if (won := self.link_to(peer)) is not None:
                    if won in running:
                        self._backoffs.pop(running[won][1] + peer, None)
                    return won
                for link in [link for link in running if link.ready.done()]:
                    _, address = running.pop(link)
                    reasons.append(f"{multiaddr.to_text(address)}: {link.ready.result() or 'closed at once'}")
                    self._back_off(address, peer)
        finally:
            for link, (dialer, _) in running.items():
                if not link.ready.done():
                    dialer.give_up(link)
        return None

    async def _wait_any(self, links: list[Link], timeout_s: float | None) -> None:
        woken: asyncio.Future[None] = self._loop.create_future()

        def wake(_: object = None) -> None:
            if not woken.done():
                woken.set_result(None)

        for link in links:
            link.ready.add_done_callback(wake)
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, wake)
        try:
            await woken
        finally:
            for link in links:
                link.ready.remove_done_callback(wake)
            if timer is not None:
                timer.cancel()

    def _back_off(self, address: bytes, peer: PeerId) -> None:
        key, now = address + peer, self._clock.now()
        most = BACKOFF_PINNED_S_MAX if self.book.is_pinned(peer) else BACKOFF_S_MAX
        _, seconds = self._backoffs.pop(key, (0.0, BACKOFF_S_MIN))
        self._backoffs[key] = (now + seconds, min(2 * seconds, most))
        while len(self._backoffs) > BACKOFFS_MAX:
            del self._backoffs[next(iter(self._backoffs))]

    # ---- the end

    def close(self) -> None:
        """Say goodbye on every connection. Open dials fail."""
        self.is_closed = True
        for link in self.links:
            link.close(CLOSE_SHUTDOWN, "shutdown")

    async def wait_closed(self) -> None:
        """Until the open dials have failed."""
        await asyncio.gather(*self._dials.values())
