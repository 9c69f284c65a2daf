"""A lookup over several paths that share no peer, without I/O: liars on one path cannot lead the others astray.

After S/Kademlia (Baumgart & Mies 2007, 4.2): the peers we know are dealt to `disjoint_paths` lookups, and a peer is asked on
the first path that names it, on no other. Each path ends by itself with the k nearest that answered *it*, so `m` liars nearer
to the key than everybody else fill a path only if m >= k x paths. Records are therefore stored with, and asked of, the k
nearest of every path. Rules of this file: those of `lookup`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import merge

from quiver.dht.distance import KEYS
from quiver.dht.lookup import Candidate, Lookup
from quiver.ids import PeerId
from quiver.params import Params
from quiver.values.peer import PeerInfo


class DisjointLookup:
    """Offers what `Lookup` offers. `alpha` questions are shared out over the paths, at least one each."""

    __slots__ = ("asked", "_k", "_paths", "_path_of", "_turn")

    def __init__(self, target: int, known: Iterable[PeerInfo], *, own: PeerId, params: Params) -> None:
        self.asked = 0
        "Questions given out so far."
        self._k = params.k
        nearest = sorted({info.peer_id: info for info in known}.values(), key=lambda info: KEYS[info.peer_id] ^ target)
        paths = max(1, min(params.disjoint_paths, len(nearest)))
        alpha = max(1, params.alpha // paths)
        self._paths = [
            Lookup(target, nearest[number::paths], own=own, params=params, alpha=alpha) for number in range(paths)
        ]
        self._path_of: dict[PeerId, Lookup] = {}
        "Everybody who was asked, and on which path."
        self._turn = 0

    def next(self, now: float) -> PeerId | None:
        """Next peer to ask, path after path; None while all have their questions open, or are done."""
        paths = self._paths
        for _ in paths:
            path = paths[self._turn % len(paths)]
            self._turn += 1
            while (peer := path.next(now)) is not None:
                if peer not in self._path_of:
                    self._path_of[peer] = path
                    self.asked += 1
                    return peer
                path.on_failure(peer, now)
        return None

    def info(self, peer: PeerId) -> PeerInfo:
        """Who `next` just named, with addresses."""
        return self._path_of[peer].info(peer)

    def on_success(self, peer: PeerId, closer: Sequence[PeerInfo], now: float) -> None:
        """`peer` answered: its own path hears of it. Its key is proved by its connection, so the target itself ends all paths."""
        path = self._path_of[peer]
        path.on_success(peer, closer, now)
        if path.found:
            self.stop()

    def on_failure(self, peer: PeerId, now: float) -> None:
        """`peer` was silent or broke the protocol."""
        self._path_of[peer].on_failure(peer, now)

    def stop(self) -> None:
        """The caller has enough."""
        for path in self._paths:
            path.stop()

    @property
    def idle(self) -> bool:
        """Another question could be open now, and somebody waits to be asked."""
        return any(path.idle for path in self._paths)

    @property
    def done(self) -> bool:
        """No path could still change its result. As of the last `next`, which also drops whom another path has asked."""
        return all(path.done for path in self._paths)

    @property
    def found(self) -> bool:
        """The peer whose id is the target has answered."""
        return any(path.found for path in self._paths)

    @property
    def hops(self) -> int:
        """Questions in a row that led to the nearest peer that answered; 0 when nobody did."""
        answered = self.answered
        return answered[0][1] if answered else 0

    @property
    def answered(self) -> Sequence[Candidate]:
        """All who answered on any path, nearest first."""
        return list(merge(*[path.answered for path in self._paths]))

    @property
    def result(self) -> list[PeerInfo]:
        """The k nearest of all paths, nearest first."""
        return [info for _, _, info in self.answered[: self._k]]

    @property
    def replicas(self) -> list[PeerInfo]:
        """Those of each path, nearest first."""
        return [info for _, _, info in merge(*[path.diverse(self._k) for path in self._paths])]

    def validate(self) -> None:
        """Own invariants."""
        for path in self._paths:
            path.validate()
            assert all(self._path_of[info.peer_id] is path for _, _, info in path.answered)
        assert self.asked == len(self._path_of)
