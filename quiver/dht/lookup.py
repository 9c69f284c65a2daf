"""Iterative Kademlia lookup, without I/O.

Rules of this file: no clock (callers pass `now`), no awaiting, no randomness.
Follows Maymounkov & Mazieres 2002, 2.3, but a silent peer is skipped, not retried. The lookup ends when the `width`
nearest peers seen have answered, when the peer whose id is the target has, or when nobody is left to ask.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from quiver.dht.distance import KEYS
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
        "target", "asked", "_k", "_alpha", "_width", "_timeout_s", "_questions_max", "_seen", "_waiting", "_open", "_answered",
    )  # fmt: skip

    def __init__(
        self, target: int, known: Iterable[PeerInfo], *, own: PeerId, params: Params, width: int | None = None
    ) -> None:
        self.target = target
        self.asked = 0
        "Questions given out so far."
        self._k = params.k
        self._alpha = params.alpha
        self._width = params.k if width is None else width
        self._timeout_s = params.rpc_timeout_s
        self._questions_max = QUESTIONS_PER_K * params.k
        self._seen: set[PeerId] = {own}
        self._waiting: list[Candidate] = []
        self._open: dict[PeerId, tuple[float, Candidate]] = {}
        "Asked and not answered: (deadline, candidate), earliest deadline first."
        self._answered: list[Candidate] = []
        self._add(known, 1)

    def _add(self, peers: Iterable[PeerInfo], hops: int) -> None:
        seen, waiting, target, keys = self._seen, self._waiting, self.target, KEYS
        # Whoever is farther than the peers we need already cannot matter.
        edge = self._answered[self._width - 1][0] if len(self._answered) >= self._width else -1
        for info in peers:
            peer_id = info.peer_id
            if peer_id not in seen:
                seen.add(peer_id)
                distance = keys[peer_id] ^ target
                if edge < 0 or distance < edge:
                    heappush(waiting, (distance, hops, info))

    def next(self, now: float) -> PeerId | None:
        """Next peer to ask; None while `alpha` questions are open, nobody useful is left, or the lookup is done."""
        opened, waiting = self._open, self._waiting
        while opened:
            peer_id, (deadline, _) = next(iter(opened.items()))
            if deadline > now:
                break
            del opened[peer_id]
        if not waiting or len(opened) >= self._alpha or self.asked >= self._questions_max or not self._is_useful(waiting[0][0]):
            return None
        candidate = heappop(waiting)
        peer_id = candidate[2].peer_id
        opened[peer_id] = (now + self._timeout_s, candidate)
        self.asked += 1
        return peer_id

    def _is_useful(self, distance: int) -> bool:
        """Whether an answer from this far away could change the result."""
        answered = self._answered
        if len(answered) >= self._width:
            return distance < answered[self._width - 1][0] and answered[0][0] != 0
        return not answered or answered[0][0] != 0

    def info(self, peer: PeerId) -> PeerInfo:
        """Who `next` just named, with addresses."""
        return self._open[peer][1][2]

    def on_success(self, peer: PeerId, closer: Sequence[PeerInfo], now: float) -> None:
        """`peer` answered. At most k of its peers are taken; an answer after its deadline is ignored."""
        entry = self._open.pop(peer, None)
        if entry is None or entry[0] < now:
            return
        insort(self._answered, entry[1])
        self._add(closer if len(closer) <= self._k else closer[: self._k], entry[1][1] + 1)

    def on_failure(self, peer: PeerId, now: float) -> None:
        """`peer` was silent or broke the protocol: it is out of this lookup."""
        self._open.pop(peer, None)

    def stop(self) -> None:
        """The caller has enough: nobody else is asked, and the lookup is done."""
        self._waiting.clear()
        self._open.clear()

    @property
    def idle(self) -> bool:
        """Another question could be open now, and somebody waits to be asked."""
        return bool(self._waiting) and len(self._open) < self._alpha

    @property
    def done(self) -> bool:
        """Nothing that is open or waiting could change the result. Deadlines pass in `next`: call that first."""
        if any(self._is_useful(candidate[0]) for _, candidate in self._open.values()):
            return False
        return not self._waiting or self.asked >= self._questions_max or not self._is_useful(self._waiting[0][0])

    @property
    def found(self) -> bool:
        """The peer whose id is the target has answered."""
        return bool(self._answered) and self._answered[0][0] == 0

    @property
    def hops(self) -> int:
        """Questions in a row that led to the nearest peer that answered; 0 when nobody did."""
        return self._answered[0][1] if self._answered else 0

    @property
    def result(self) -> list[PeerInfo]:
        """The k nearest peers that answered, nearest first."""
        return [info for _, _, info in self._answered[: self._k]]

    def validate(self) -> None:
        """Own invariants."""
        assert len(self._open) <= self._alpha and self.asked <= self._questions_max
        assert self._answered == sorted(self._answered)
        members = [c[2].peer_id for c in (*self._waiting, *(c for _, c in self._open.values()), *self._answered)]
        assert len(set(members)) == len(members) and set(members) <= self._seen
