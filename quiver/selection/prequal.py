"""Prequal (Wydrowski, Kleinberg, Rumble, Archer, NSDI 2024), asynchronous mode: probes ahead, hot-cold rule.

Two things differ from the paper, because providers here are strangers: latency is the time to first token measured by
this gateway, not what the replica says; and the time to live forgives a round trip over the internet.
Requests in flight (RIF) = reported queued + running: self-reported, so a liar gains. That is what a study shows.
"""

from __future__ import annotations

import random
import statistics
from collections import deque
from collections.abc import Sequence
from math import ceil, floor, inf

from quiver.ids import PeerId
from quiver.selection.policy import RANKED_MAX
from quiver.values.decision import Candidate, Decision, Scored
from quiver.values.request import InferenceRequest

POOL_MAX = 16
PROBES = 3
"r_probe: probes asked for with each decision."
REMOVED = 1
"r_remove: entries dropped with each decision, the oldest and the worst in turn."
DELTA = 1.0
HOT_QUANTILE = 2**-0.25
"Q_RIF: a peer is hot above this quantile of recently seen RIFs."
TTL_S = 2.0
"The paper's 1 s, plus what probes over the internet take."
RIFS_MAX = 128


class _Probe:
    """One entry of the pool."""

    __slots__ = ("rif", "latency_s", "received_s", "uses_left")

    def __init__(self, *, rif: int, latency_s: float, received_s: float, uses_left: int) -> None:
        self.rif = rif
        self.latency_s = latency_s
        self.received_s = received_s
        self.uses_left = uses_left


class Prequal:
    """Lowest latency among peers that are not hot, else the fewest requests in flight; random below two probes."""

    name = "prequal"

    def __init__(self, *, hot_quantile: float = HOT_QUANTILE, ttl_s: float = TTL_S) -> None:
        self._hot_quantile = hot_quantile
        self._ttl_s = ttl_s
        self._pool: dict[PeerId, _Probe] = {}
        self._rifs: deque[int] = deque(maxlen=RIFS_MAX)
        self._seen_ages: dict[PeerId, float] = {}
        self._removes_oldest = True

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """Spends one use of the chosen probe. Whoever is not in the pool follows in random order, for retries."""
        self._absorb(candidates, now=now, rng=rng)
        drawn = rng.sample(candidates, min(RANKED_MAX, len(candidates)))
        others = [Scored(peer=candidate.peer, score=inf, reason="drawn") for candidate in drawn]
        if len(self._pool) < 2:
            return Decision(ranked=tuple(others), policy=self.name)
        pooled = self._ranked_pool(rng)
        known = {scored.peer for scored in pooled}
        self._spend(pooled[0].peer)
        ranked = (*pooled, *(scored for scored in others if scored.peer not in known))
        return Decision(ranked=ranked[:RANKED_MAX], policy=self.name)

    def probes(self, *, now: float, rng: random.Random) -> Sequence[PeerId]:
        """Uniform without replacement over the candidates of the last decision."""
        return rng.sample(list(self._seen_ages), min(PROBES, len(self._seen_ages)))

    def _absorb(self, candidates: Sequence[Candidate], *, now: float, rng: random.Random) -> None:
        """Turn load reports not seen before into pool entries; drop what is old or no longer a candidate."""
        size = max(2, min(POOL_MAX, len(candidates) // 3))
        latencies = [candidate.ttft_ewma_s for candidate in candidates if candidate.ttft_ewma_s is not None]
        typical_s = statistics.median(latencies) if latencies else 0.0
        seen: dict[PeerId, float] = {}
        fresh: list[Candidate] = []
        for candidate in candidates:
            age_s = candidate.reported_age_s
            seen[candidate.peer] = age_s
            if age_s <= self._ttl_s and age_s < self._seen_ages.get(candidate.peer, inf):
                fresh.append(candidate)
        self._seen_ages = seen
        self._pool = {
            peer: probe for peer, probe in self._pool.items() if peer in seen and now - probe.received_s <= self._ttl_s
        }
        for candidate in sorted(fresh, key=lambda candidate: -candidate.reported_age_s):
            rif = candidate.reported_queued + candidate.reported_running
            self._rifs.append(rif)
            self._pool.pop(candidate.peer, None)
            self._pool[candidate.peer] = _Probe(
                rif=rif,
                latency_s=typical_s if candidate.ttft_ewma_s is None else candidate.ttft_ewma_s,
                received_s=now - candidate.reported_age_s,
                uses_left=compute_reuse(pool=size, peers=len(candidates), rng=rng),
            )
        while len(self._pool) > size:
            del self._pool[next(iter(self._pool))]

    def _ranked_pool(self, rng: random.Random) -> list[Scored]:
        threshold = self._threshold()
        keyed = []
        for peer, probe in self._pool.items():
            hot = probe.rif > threshold
            order = (probe.rif, probe.latency_s) if hot else (probe.latency_s, probe.rif)
            keyed.append((hot, *order, rng.random(), peer))
        keyed.sort()
        return [
            Scored(
                peer=key[4], score=float(key[1]), reason="hot, by requests in flight" if key[0] else "cold, by latency"
            )
            for key in keyed
        ]

    def _threshold(self) -> float:
        """The RIF at the hot quantile, nearest rank."""
        rifs = sorted(self._rifs)
        return rifs[max(0, ceil(self._hot_quantile * len(rifs)) - 1)] if rifs else inf

    def _spend(self, peer: PeerId) -> None:
        """Count our own request on top of the probe, use it up, and drop an old or bad entry: rejects would fill the pool."""
        probe = self._pool[peer]
        probe.rif += 1
        probe.uses_left -= 1
        if probe.uses_left <= 0:
            del self._pool[peer]
        for _ in range(REMOVED):
            if len(self._pool) <= 2:
                return  # Below two probes the rule is random: in a small pool removal would always lead there.
            if self._removes_oldest:
                victim = next(iter(self._pool))
            else:
                hot = any(entry.rif > self._threshold() for entry in self._pool.values())
                victim = max(
                    self._pool,
                    key=lambda peer: self._pool[peer].rif if hot else self._pool[peer].latency_s,
                )
            del self._pool[victim]
            self._removes_oldest = not self._removes_oldest


def compute_reuse(*, pool: int, peers: int, rng: random.Random) -> int:
    """b_reuse = max(1, (1 + delta) / ((1 - m/n) r_probe - r_remove)), rounded at random so that the mean is exact.

    The bound does not exist for m >= 2n/3; there an entry may be used `POOL_MAX` times.
    """
    rate = (1.0 - pool / peers) * PROBES - REMOVED
    budget = max(1.0, (1.0 + DELTA) / rate) if rate > 0 else float(POOL_MAX)
    budget = min(budget, float(POOL_MAX))
    return floor(budget) + (rng.random() < budget - floor(budget))
