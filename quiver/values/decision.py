"""What a routing policy sees, what it answers, and what it learns."""

from __future__ import annotations

import msgspec

from quiver.ids import PeerId, RequestId


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One provider as a gateway sees it. `reported_*` came from the provider itself and may be a lie; the rest was measured here."""

    peer: PeerId
    slots: int
    "From the signed offer."
    prompt_price: int
    completion_price: int
    in_flight: int
    "Requests of this gateway open at the provider now; survives cancellation."
    rtt_s: float | None
    ttft_ewma_s: float | None
    "Decaying mean time to first token seen by this gateway."
    channel_ready: bool
    opening_cost_credits: int
    warm: bool
    reported_queued: int
    reported_running: int
    reported_age_s: float
    reported_prefill_tps: float
    reported_decode_tps: float


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """One ranked peer; lower score is better unless the policy says otherwise."""

    peer: PeerId
    score: float
    reason: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Peers in the order to try them."""

    ranked: tuple[Scored, ...]
    policy: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt at one provider ended; `ok` False with `busy` True is load, not a fault."""

    request_id: RequestId
    peer: PeerId
    ok: bool
    busy: bool
    ttft_s: float | None
    e2e_s: float
    completion_tokens: int
    prompt_tokens: int
    lost: bool = False
    "Another provider answered first and this one was stopped: no fault, and `ttft_s` is at least what is said here."
