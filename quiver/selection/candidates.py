"""What one gateway knows about the providers of each model, and the one filter before every policy.

Rules of this file: pure (callers pass `now`), bounded, and honest about sources: offers and loads are what a
provider says, the rest was measured here. Offers arrive verified: signature, and the connection's peer id.
A ghost gets no traffic: without an unexpired offer nobody is a candidate, whatever the DHT still stores.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Sequence
from enum import StrEnum
from types import TracebackType

from quiver.ids import ModelId, PeerId
from quiver.params import Params
from quiver.selection.decay import DecayingMean
from quiver.selection.ejection import Ejection
from quiver.values.decision import Candidate, Outcome
from quiver.values.offer import Load, Offer

TTFT_TAU_S = 30.0
AGE_STEP_S = 1.0
"A candidate is rebuilt when something about it changed, else once a step: its `reported_age_s` lags by less than this."
MODELS_MAX = 256
"Models of one table; a gateway pins the models it serves, so more is a mistake."
PEERS_PER_CANDIDATE = 4
"Peers remembered, as a multiple of `candidates_max`: room for those whose offer just ran out."


class OfferVerdict(StrEnum):
    """What became of an offer."""

    TAKEN = "taken"
    EXPIRED = "expired"
    STALE = "stale"
    "An older generation, or an older lease of the same generation."
    FULL = "full"


class InFlight:
    """One request open at a peer. Counts down once, however it ends: use it as a context manager around the attempt."""

    __slots__ = ("_peer",)

    def __init__(self, peer: _Peer) -> None:
        self._peer: _Peer | None = peer
        peer.in_flight += 1
        peer.changes += 1

    def release(self) -> None:
        """The attempt is over. Idempotent."""
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.in_flight -= 1
            peer.changes += 1

    def __enter__(self) -> InFlight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class _Peer:
    """One provider, over all its models."""

    __slots__ = (
        "generation", "in_flight", "rtt_s", "load", "load_at_s", "channel_ready",
        "ejection", "entries", "changes",
    )  # fmt: skip

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.in_flight = 0
        self.rtt_s: float | None = None
        self.load: Load | None = None
        self.load_at_s = 0.0
        self.channel_ready = False
        self.ejection = Ejection()
        self.entries: dict[ModelId, _Entry] = {}
        self.changes = 0
        "Raised whenever a field of its candidates may have changed."


class _Entry:
    """One offer of one provider, and what it was measured to be worth."""

    __slots__ = ("offer", "expires_s", "ttft", "built", "built_changes", "built_step")

    def __init__(self, offer: Offer, expires_s: float) -> None:
        self.offer = offer
        self.expires_s = expires_s
        self.ttft = DecayingMean(tau_s=TTFT_TAU_S)
        self.built: Candidate | None = None
        self.built_changes = self.built_step = -1


class CandidateTable:
    """Candidates of one gateway, at most `Params.candidates_max` a model."""

    def __init__(self, params: Params, *, opening_cost_credits: int = 0) -> None:
        self._candidates_max = params.candidates_max
        self._peers_max = params.candidates_max * PEERS_PER_CANDIDATE
        self._lease_s = params.offer_lease_s
        self._opening_cost_credits = opening_cost_credits
        self._peers: dict[PeerId, _Peer] = {}
        self._models: dict[ModelId, list[PeerId]] = {}
        self._next_expiry_s = math.inf
        "No offer expires earlier: sweeping before is in vain."
        self.panics = 0
        "How often every candidate was ejected, so that the filter was ignored."

    # -- what providers say

    def on_offer(self, offer: Offer, *, now: float, utc_ms: int) -> OfferVerdict:
        """Take a verified offer. It counts until it expires, but never longer than the network's lease from now."""
        expires_s = now + min((offer.expires_ms - utc_ms) / 1000, self._lease_s)
        if expires_s <= now:
            return OfferVerdict.EXPIRED
        peer = self._peers.get(offer.provider)
        known = None if peer is None else peer.entries.get(offer.model)
        if peer is not None and offer.generation < peer.generation:
            return OfferVerdict.STALE
        if peer is not None and offer.generation == peer.generation:
            if known is not None and offer.expires_ms < known.offer.expires_ms:
                return OfferVerdict.STALE
        if known is None and not self._make_room(offer.provider, offer.model, now=now):
            return OfferVerdict.FULL
        if peer is None:
            peer = self._peers[offer.provider] = _Peer(offer.generation)
        if offer.generation > peer.generation:
            self._restart(offer.provider, peer, offer)
        self._put(peer, offer, expires_s)
        return OfferVerdict.TAKEN

    def on_load(self, peer_id: PeerId, load: Load, *, now: float) -> bool:
        """Take a self-reported load; False if nobody by that id has made an offer."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return False
        peer.load, peer.load_at_s = load, now
        peer.changes += 1
        return True

    # -- what is measured here

    def on_rtt(self, peer_id: PeerId, rtt_s: float | None) -> None:
        """Round-trip time as the transport measured it."""
        if (peer := self._peers.get(peer_id)) is not None and peer.rtt_s != rtt_s:
            peer.rtt_s = rtt_s
            peer.changes += 1

    def on_channel(self, peer_id: PeerId, *, ready: bool) -> None:
        """Whether a funded channel to this peer is open."""
        if (peer := self._peers.get(peer_id)) is not None and peer.channel_ready != ready:
            peer.channel_ready = ready
            peer.changes += 1

    def dispatch(self, peer_id: PeerId) -> InFlight:
        """Count a request as open at the peer until the guard is released; nothing is counted at a forgotten peer."""
        return InFlight(self._peers.get(peer_id) or _Peer(0))

    def on_outcome(self, outcome: Outcome, *, model: ModelId, now: float) -> None:
        """Learn from the end of an attempt. Busy is load and changes nothing here; five failures in a row eject."""
        peer = self._peers.get(outcome.peer)
        if peer is None or outcome.busy:
            return
        if outcome.ok:
            # Whoever lost a hedge has shown no more than how slow it is.
            if not outcome.lost:
                peer.ejection.on_success()
            entry = peer.entries.get(model)
            if entry is not None and outcome.ttft_s is not None:
                entry.ttft.observe(outcome.ttft_s, now=now)
                peer.changes += 1
        else:
            peer.ejection.on_failure(now=now)

    # -- what a gateway asks

    def candidates(self, model: ModelId, now: float, *, among: Collection[PeerId] | None = None) -> list[Candidate]:
        """Unexpired and not ejected, sorted by peer id; `among` limits the question to these peers.

        When all are ejected the ejections are ignored: fail open.
        """
        step, peers = int(now // AGE_STEP_S), self._peers
        healthy: list[Candidate] = []
        ejected: list[Candidate] = []
        for peer_id in self._models.get(model, ()) if among is None else sorted(among):
            peer = peers.get(peer_id)
            if peer is None or (entry := peer.entries.get(model)) is None or entry.expires_s <= now:
                continue
            candidate = entry.built
            if candidate is None or entry.built_changes != peer.changes or entry.built_step != step:
                candidate = entry.built = self._candidate(peer_id, peer, entry, now)
                entry.built_changes, entry.built_step = peer.changes, step
            (ejected if now < peer.ejection.until_s else healthy).append(candidate)
        if healthy or not ejected:
            return healthy
        self.panics += 1
        return ejected

    def offer(self, peer_id: PeerId, model: ModelId, now: float) -> Offer | None:
        """The unexpired offer of a peer for a model."""
        peer = self._peers.get(peer_id)
        entry = None if peer is None else peer.entries.get(model)
        return entry.offer if entry is not None and entry.expires_s > now else None

    def wanted(self, found: Sequence[PeerId], model: ModelId, now: float) -> list[PeerId]:
        """Of the peers found in the DHT, those worth asking for an offer: half a lease old, or new while there is room."""
        room = self._candidates_max - len(self._models.get(model, ()))
        asked = []
        for peer_id in found:
            peer = self._peers.get(peer_id)
            entry = None if peer is None else peer.entries.get(model)
            if entry is None:
                room -= 1
                if room < 0:
                    continue
            elif entry.expires_s - now > self._lease_s / 2:
                continue
            asked.append(peer_id)
        return asked

    def peers(self) -> list[PeerId]:
        """Everyone with an offer, expired or not, sorted: whom to ask for a fresh one."""
        return sorted(peer_id for peer_id, peer in self._peers.items() if peer.entries)

    def is_ejected(self, peer_id: PeerId, now: float) -> bool:
        """Whether the filter hides this peer now."""
        peer = self._peers.get(peer_id)
        return peer is not None and now < peer.ejection.until_s

    def in_flight(self, peer_id: PeerId) -> int:
        """Requests of this gateway open at the peer."""
        peer = self._peers.get(peer_id)
        return 0 if peer is None else peer.in_flight

    def sweep(self, now: float, *, keep: PeerId | None = None) -> int:
        """Drop expired offers, and peers (but `keep`) with nothing to remember; returns how many offers went."""
        expired = [
            (peer_id, model)
            for peer_id, peer in self._peers.items()
            for model, entry in peer.entries.items()
            if entry.expires_s <= now
        ]
        for peer_id, model in expired:
            self._drop(peer_id, model)
        self._forget(
            [peer_id for peer_id, peer in self._peers.items() if peer_id != keep and now >= peer.ejection.forgotten_s]
        )
        self._next_expiry_s = min(
            (entry.expires_s for peer in self._peers.values() for entry in peer.entries.values()), default=math.inf
        )
        return len(expired)

    def validate(self) -> None:
        """Own invariants; for tests and debug runs."""
        assert len(self._peers) <= self._peers_max
        assert len(self._models) <= MODELS_MAX
        for model, listed in self._models.items():
            assert 0 < len(listed) <= self._candidates_max
            assert listed == sorted(set(listed))
            assert all(model in self._peers[peer_id].entries for peer_id in listed)
        entries = sum(len(peer.entries) for peer in self._peers.values())
        assert entries == sum(len(listed) for listed in self._models.values())
        assert all(peer.in_flight >= 0 for peer in self._peers.values())
        assert all(
            entry.offer.generation == peer.generation
            for peer in self._peers.values()
            for entry in peer.entries.values()
        )

    # -- bookkeeping

    def _candidate(self, peer_id: PeerId, peer: _Peer, entry: _Entry, now: float) -> Candidate:
        offer, load = entry.offer, peer.load
        return Candidate(
            peer=peer_id, slots=offer.slots, prompt_price=offer.prompt_price, completion_price=offer.completion_price,
            in_flight=peer.in_flight, rtt_s=peer.rtt_s, ttft_ewma_s=entry.ttft.value, channel_ready=peer.channel_ready,
            opening_cost_credits=0 if peer.channel_ready else self._opening_cost_credits,
            warm=load is not None and offer.model in load.warm,
            reported_queued=0 if load is None else load.queued,
            reported_running=0 if load is None else load.running,
            reported_age_s=math.inf if load is None else now - peer.load_at_s,
            reported_prefill_tps=offer.prefill_tps, reported_decode_tps=offer.decode_tps,
        )  # fmt: skip

    def _put(self, peer: _Peer, offer: Offer, expires_s: float) -> None:
        peer.changes += 1
        self._next_expiry_s = min(self._next_expiry_s, expires_s)
        entry = peer.entries.get(offer.model)
        if entry is not None:
            entry.offer, entry.expires_s = offer, expires_s
            return
        peer.entries[offer.model] = _Entry(offer, expires_s)
        insort(self._models.setdefault(offer.model, []), offer.provider)

    def _restart(self, peer_id: PeerId, peer: _Peer, offer: Offer) -> None:
        """A new generation: the past's other offers and load are void. Failures stay, or a restart would wash them off."""
        for model in [model for model in peer.entries if model != offer.model]:
            self._drop(peer_id, model)
        if (entry := peer.entries.get(offer.model)) is not None:
            entry.ttft = DecayingMean(tau_s=TTFT_TAU_S)
        peer.generation, peer.load = offer.generation, None

    def _make_room(self, peer_id: PeerId, model: ModelId, *, now: float) -> bool:
        """Space for one more offer. What expired goes first, then idle ejected peers, then the newcomer."""
        if self._has_room(peer_id, model):
            return True
        if now >= self._next_expiry_s or len(self._peers) >= self._peers_max:
            self.sweep(now, keep=peer_id)
        if len(self._peers) >= self._peers_max:
            self._forget([idle for idle in self._peers if self._is_idle(idle) and idle != peer_id][:1])
        if len(self._models.get(model, ())) >= self._candidates_max:
            for listed in self._models[model]:
                peer = self._peers[listed]
                if now < peer.ejection.until_s and peer.in_flight == 0:
                    self._drop(listed, model)
                    break
        return self._has_room(peer_id, model)

    def _has_room(self, peer_id: PeerId, model: ModelId) -> bool:
        if peer_id not in self._peers and len(self._peers) >= self._peers_max:
            return False
        listed = self._models.get(model)
        return len(self._models) < MODELS_MAX if listed is None else len(listed) < self._candidates_max

    def _is_idle(self, peer_id: PeerId) -> bool:
        """Nothing depends on remembering this peer but the memory of its ejections."""
        peer = self._peers[peer_id]
        return not peer.entries and peer.in_flight == 0

    def _forget(self, peer_ids: list[PeerId]) -> None:
        for peer_id in peer_ids:
            if self._is_idle(peer_id):
                del self._peers[peer_id]

    def _drop(self, peer_id: PeerId, model: ModelId) -> None:
        del self._peers[peer_id].entries[model]
        listed = self._models[model]
        del listed[bisect_left(listed, peer_id)]
        if not listed:
            del self._models[model]
