"""Iterative Kademlia lookup, without I/O.

Rules of this file: no clock (callers pass `now`), no awaiting, no randomness.
Follows Maymounkov & Mazieres 2002, 2.3, but a silent peer is skipped, not retried. The lookup ends when the `width`
nearest peers seen have answered, when the peer whose id is the target has, or when nobody is left to ask. Of one address
group two peers count: one operator's crowd near the target cannot end a lookup, it only makes it longer.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from math import inf

from quiver.dht.address_group import GROUP_PEERS_MAX, groups_of
from quiver.dht.distance import KEY_BITS, KEYS
from quiver.ids import PeerId
from quiver.params import Params
from quiver.values.peer import PeerInfo

# A lookup asks about k peers; 8k forgives churn on the way, and ends one that liars try to keep alive.
QUESTIONS_PER_K = 8

Candidate = tuple[int, int, PeerInfo]
"""(distance, hops, who): distances are unique, so tuples never compare further."""


class Lookup:
    """One search for `target` (a keyspace integer)."""

    __slots__ = (
        "target", "asked", "_k", "_alpha", "_width", "_timeout_s", "_questions_max", "_seen", "_waiting", "_met", "_open", "_expiry_s",
        "_answered", "_edge", "_grouped",
    )  # fmt: skip

    def __init__(
        self,
        target: int,
        known: Iterable[PeerInfo],
        *,
        own: PeerId,
        params: Params,
        width: int | None = None,
        alpha: int | None = None,
    ) -> None:
        """`width` and `alpha` in place of k and the network's alpha."""
        self.target = target
        self.asked = 0
        "Questions given out so far."
        self._k = params.k
        self._alpha = params.alpha if alpha is None else alpha
        self._width = params.k if width is None else width
        self._timeout_s = params.rpc_timeout_s
        self._questions_max = QUESTIONS_PER_K * params.k
        self._seen: set[PeerId] = {own}
        self._waiting: list[int] = []
        "Distances of those who may still be asked, a heap: bare integers compare several times as fast as tuples."
        self._met: dict[int, tuple[int, PeerInfo]] = {}
        "(hops, who) of each of them."
        self._open: dict[PeerId, tuple[float, Candidate]] = {}
        "Asked and not answered: (deadline, candidate), earliest deadline first."
        self._expiry_s = inf
        "No open question has an earlier deadline."
        self._answered: list[Candidate] = []
        self._grouped = False
        "Somebody who answered has an address group."
        self._edge = 1 << KEY_BITS
        "Only a peer nearer than this can still change the result."
        self._add(known, 1)

    def _add(self, peers: Iterable[PeerInfo], hops: int) -> None:
        seen, waiting, met, target, edge, keys = self._seen, self._waiting, self._met, self.target, self._edge, KEYS
        for info in peers:
            peer_id = info.peer_id
            if peer_id not in seen:
                seen.add(peer_id)
                distance = keys[peer_id] ^ target
                if distance < edge:
                    heappush(waiting, distance)
                    met[distance] = (hops, info)

    def next(self, now: float) -> PeerId | None:
        """Next peer to ask; None while `alpha` questions are open, nobody useful is left, or the lookup is done."""
        opened, waiting = self._open, self._waiting
        if now >= self._expiry_s:
            self._expire(now)
        if len(opened) >= self._alpha or not waiting or waiting[0] >= self._edge or self.asked >= self._questions_max:
            return None
        distance = heappop(waiting)
        hops, info = self._met.pop(distance)
        peer_id = info.peer_id
        deadline_s = now + self._timeout_s
        if not opened:
            self._expiry_s = deadline_s
        opened[peer_id] = (deadline_s, (distance, hops, info))
        self.asked += 1
        return peer_id

    def _expire(self, now: float) -> None:
        for peer_id, (deadline_s, _) in list(self._open.items()):
            if deadline_s <= now:
                del self._open[peer_id]
        self._expiry_s = min([deadline_s for deadline_s, _ in self._open.values()], default=inf)

    def info(self, peer: PeerId) -> PeerInfo:
        """Who `next` just named, with addresses."""
        return self._open[peer][1][2]

    def on_success(self, peer: PeerId, closer: Sequence[PeerInfo], now: float) -> None:
        """`peer` answered. At most k of its peers are taken; an answer after its deadline is ignored."""
        entry = self._open.pop(peer, None)
        if entry is None or entry[0] < now:
            return
        candidate, answered = entry[1], self._answered
        insort(answered, candidate)
        if candidate[2].addresses and groups_of(candidate[2].addresses):
            self._grouped = True
        if answered[0][0] == 0:
            self._edge = 0
        elif self._grouped:
            diverse = self.diverse(self._width)
            if len(diverse) == self._width:
                self._edge = diverse[-1][0]
        elif len(answered) >= self._width:
            self._edge = answered[self._width - 1][0]
        self._add(closer if len(closer) <= self._k else closer[: self._k], candidate[1] + 1)

    def on_failure(self, peer: PeerId, now: float) -> None:
        """`peer` was silent or broke the protocol: it is out of this lookup."""
        self._open.pop(peer, None)

    def stop(self) -> None:
        """The caller has enough: nobody else is asked, and the lookup is done."""
        self._edge = 0

    @property
    def idle(self) -> bool:
        """Another question could be open now, and somebody waits to be asked."""
        return len(self._open) < self._alpha and bool(self._waiting)

    @property
    def done(self) -> bool:
        """Nothing that is open or waiting could change the result. Deadlines pass in `next`: call that first."""
        edge = self._edge
        for _, candidate in self._open.values():
            if candidate[0] < edge:
                return False
        return not self._waiting or self._waiting[0] >= edge or self.asked >= self._questions_max

    @property
    def found(self) -> bool:
        """The peer whose id is the target has answered."""
        return bool(self._answered) and self._answered[0][0] == 0

    @property
    def hops(self) -> int:
        """Questions in a row that led to the nearest peer that answered; 0 when nobody did."""
        return self._answered[0][1] if self._answered else 0

    @property
    def answered(self) -> Sequence[Candidate]:
        """All who answered, nearest first."""
        return self._answered

    @property
    def result(self) -> list[PeerInfo]:
        """The k nearest peers that answered, nearest first."""
        return [info for _, _, info in self._answered[: self._k]]

    @property
    def replicas(self) -> list[PeerInfo]:
        """Who should hold a record of the target: the k nearest that answered, two at most of one address group."""
        return [info for _, _, info in self.diverse(self._k)]

    def diverse(self, n: int) -> Sequence[Candidate]:
        """The `n` nearest that answered, without those whose address group is there twice already."""
        if not self._grouped:
            return self._answered[:n]
        chosen: list[Candidate] = []
        counts: dict[bytes, int] = {}
        for candidate in self._answered:
            groups = groups_of(candidate[2].addresses)
            if all(counts.get(group, 0) < GROUP_PEERS_MAX for group in groups):
                counts.update({group: counts.get(group, 0) + 1 for group in groups})
                chosen.append(candidate)
                if len(chosen) == n:
                    break
        return chosen

    def validate(self) -> None:
        """Own invariants."""
        assert len(self._open) <= self._alpha and self.asked <= self._questions_max
        assert self._answered == sorted(self._answered)
        assert len(self._waiting) == len(self._met) and set(self._waiting) == set(self._met)
        members = [info.peer_id for _, info in self._met.values()]
        members += [c[2].peer_id for c in (*(c for _, c in self._open.values()), *self._answered)]
        assert len(set(members)) == len(members) and set(members) <= self._seen
