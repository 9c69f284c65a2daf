"""Candidates, offers and outcomes for the tests of selection: every field has a value that says nothing."""

from __future__ import annotations

from typing import Any

from quiver.ids import Address, ModelId, PeerId, RequestId
from quiver.values.decision import Candidate, Outcome
from quiver.values.offer import Load, Offer
from quiver.values.request import Dialect, InferenceRequest

MODEL = ModelId(b"m" * 32)
OTHER_MODEL = ModelId(b"o" * 32)


def peer(name: str) -> PeerId:
    return PeerId(name.encode())


def request(model: str = "llama") -> InferenceRequest:
    return InferenceRequest(
        request_id=RequestId(bytes(16)),
        model=model,
        dialect=Dialect.NATIVE,
        body=b"{}",
        max_tokens=16,
        prompt_tokens_estimate=16,
        deadline_ms=60_000,
    )


def candidate(name: str, **fields: Any) -> Candidate:
    values: dict[str, Any] = {
        "peer": peer(name),
        "slots": 1,
        "prompt_price": 100,
        "completion_price": 200,
        "in_flight": 0,
        "rtt_s": None,
        "ttft_ewma_s": None,
        "channel_ready": False,
        "opening_cost_credits": 0,
        "warm": False,
        "reported_queued": 0,
        "reported_running": 0,
        "reported_age_s": 0.0,
        "reported_prefill_tps": 1000.0,
        "reported_decode_tps": 10.0,
    }
    return Candidate(**(values | fields))


def outcome(name: str, *, ok: bool = True, busy: bool = False, ttft_s: float | None = None) -> Outcome:
    return Outcome(
        request_id=RequestId(bytes(16)),
        peer=peer(name),
        ok=ok,
        busy=busy,
        ttft_s=ttft_s,
        e2e_s=1.0,
        completion_tokens=16,
        prompt_tokens=16,
    )


def offer(name: str, **fields: Any) -> Offer:
    values: dict[str, Any] = {
        "provider": peer(name),
        "public_key": bytes(32),
        "model": MODEL,
        "name": "llama",
        "prompt_price": 100,
        "completion_price": 200,
        "minimum_credits": 0,
        "hardware": "test",
        "slots": 4,
        "prefill_tps": 1000.0,
        "decode_tps": 50.0,
        "payout": Address(bytes(20)),
        "chain_id": 1,
        "contract": Address(bytes(20)),
        "generation": 1,
        "expires_ms": 10_000,
    }
    return Offer(**(values | fields))


def load(queued: int = 0, running: int = 0, *, warm: tuple[ModelId, ...] = ()) -> Load:
    return Load(queued=queued, running=running, slots=4, warm=warm)
