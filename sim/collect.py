"""Rows of a run: one flat record a request, a provider, a gateway, an epoch. Columns: docs/metrics.md.

Rules of this file: it observes trace events and what clients saw; it changes nothing. Statistics are derived later.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quiver import trace
from quiver.ids import PeerId, RequestId
from quiver.values.request import Failure, Final


class RequestRow(msgspec.Struct, kw_only=True):
    """One request as its client saw it. Times are seconds since the first possible arrival."""

    run_id: str
    seed: int
    policy: str
    request_id: str
    gateway: str
    provider: str | None = None
    region: str
    "The gateway's."
    model: str
    qos: str
    arrived_s: float
    dispatched_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None
    queue_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    quoted_credits: int = 0
    paid_credits: int = 0
    attempts: int = 0
    hedged: bool = False
    resumed: bool = False
    cached: bool = False
    canary: bool = False
    cheated: bool = False
    "Ground truth, invisible to roles."
    outcome: str = "unfinished"
    error: str = ""

    def on_final(self, final: Final) -> None:
        """The answer is complete."""
        self.queue_s = final.queue_s
        self.prompt_tokens = final.prompt_tokens
        self.completion_tokens = final.completion_tokens
        self.quoted_credits = final.quoted_credits
        self.paid_credits = final.paid_credits
        self.attempts = final.attempts
        self.hedged = final.hedged
        self.resumed = final.resumed > 0
        if self.finished_s is not None:
            self.e2e_s = self.finished_s - self.arrived_s
        if self.first_token_s is not None and self.finished_s is not None:
            self.ttft_s = self.first_token_s - self.arrived_s
            if self.completion_tokens > 1:
                self.tpot_s = (self.finished_s - self.first_token_s) / (self.completion_tokens - 1)

    def on_failure(self, failure: Failure) -> None:
        """The answer is not complete."""
        self.completion_tokens = failure.delivered_tokens
        self.paid_credits = failure.paid_credits
        self.attempts = failure.attempts
        self.hedged = failure.hedged
        self.resumed = failure.resumed > 0
        self.error = failure.message


class ProviderRow(msgspec.Struct, kw_only=True):
    """One provider over the whole run."""

    run_id: str
    seed: int
    policy: str
    provider: str
    region: str
    hardware: str
    slots: int
    prompt_price: int
    completion_price: int
    completed: int = 0
    completion_tokens: int = 0
    earned_credits: int = 0
    "Acknowledged by payers."
    claimed_credits: int = 0
    adversary: str = ""
    "Ground truth, invisible to roles."


class EpochRow(msgspec.Struct, kw_only=True):
    """One commitment."""

    run_id: str
    seed: int
    epoch: int
    channels: int
    root: str
    committed_s: float


class EvidenceRow(msgspec.Struct, kw_only=True):
    """One detector's last look at one provider, with the eyes of one witness."""

    run_id: str
    seed: int
    witness: str
    provider: str
    detector: str
    score: float
    threshold: float
    suspicious: bool
    adversary: str
    "Ground truth, invisible to roles."


class Collector:
    """Subscribe `observe` to a trace, for the kinds `observed`: it fills the rows."""

    observed = (
        trace.RequestDispatched, trace.RequestFinished, trace.ReceiptIssued, trace.ReceiptsIngested, trace.LookupFinished,
        trace.EpochCommitted, trace.EvidenceRecorded,
    )  # fmt: skip

    def __init__(self, *, run_id: str, seed: int, policy: str) -> None:
        self.run_id = run_id
        self.seed = seed
        self.policy = policy
        self.requests: dict[RequestId, RequestRow] = {}
        self.epochs: list[EpochRow] = []
        self.served: dict[PeerId, list[int]] = {}
        self.receipts = 0
        self.ingested = 0
        self.lookups = 0
        self.lookups_found = 0
        self.evidence: list[trace.EvidenceRecorded] = []
        self.names: dict[PeerId, str] = {}
        self.start_s = 0.0

    def name(self, peer: PeerId | None) -> str | None:
        """The short name of a simulated node."""
        return None if peer is None else self.names.get(peer, peer.hex()[-8:])

    def observe(self, event: Any) -> None:
        """A trace sink."""
        kind = type(event)
        if kind is trace.RequestDispatched:
            row = self.requests.get(event.request_id)
            if row is not None:
                row.provider = self.name(event.provider)
                if row.dispatched_s is None:
                    row.dispatched_s = event.at_s - self.start_s
        elif kind is trace.RequestFinished:
            row = self.requests.get(event.request_id)
            if row is not None:
                row.outcome = event.outcome
                row.error = event.error
                # The one that answered: a hedge may have been sent later, and lost.
                row.provider = self.name(event.provider) or row.provider
            if event.outcome == "completed":
                served = self.served.setdefault(event.provider, [0, 0])
                served[0] += 1
                served[1] += event.completion_tokens
        elif kind is trace.ReceiptIssued:
            self.receipts += 1
        elif kind is trace.ReceiptsIngested:
            self.ingested += event.accepted
        elif kind is trace.LookupFinished:
            self.lookups += 1
            self.lookups_found += event.found
        elif kind is trace.EpochCommitted:
            self.epochs.append(
                EpochRow(
                    run_id=self.run_id, seed=self.seed, epoch=event.epoch, channels=event.count, root=event.root.hex(),
                    committed_s=event.at_s - self.start_s,
                )
            )  # fmt: skip
        elif kind is trace.EvidenceRecorded:
            self.evidence.append(event)
