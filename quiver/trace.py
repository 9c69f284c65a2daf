"""Trace events: one frozen value for each decision, so that a request can be followed through every room.

Delivered frames are recorded by the transport. Sinks only observe: no event may change what a role does.
"""

from __future__ import annotations

import msgspec

from quiver.ids import ChannelId, PeerId, RequestId
from quiver.values.ledger import LedgerEvent


class TraceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Base. `at_s` is `Clock.now()`, `node` is who decided."""

    at_s: float
    node: PeerId


class RequestArrived(TraceEvent, tag="request_arrived"):
    """A client's request reached a gateway."""

    request_id: RequestId
    model: str
    prompt_tokens_estimate: int
    max_tokens: int


class RequestDispatched(TraceEvent, tag="request_dispatched"):
    """A gateway chose a provider for one attempt."""

    request_id: RequestId
    provider: PeerId
    attempt: int
    policy: str
    score: float
    reason: str
    candidates: int


class RequestQuoted(TraceEvent, tag="request_quoted"):
    """The payer accepted a quote."""

    request_id: RequestId
    provider: PeerId
    amount_max: int


class FirstToken(TraceEvent, tag="first_token"):
    """The first chunk reached the gateway."""

    request_id: RequestId
    provider: PeerId


class RequestHedged(TraceEvent, tag="request_hedged"):
    """A gateway asked a second provider beside one that is silent."""

    request_id: RequestId
    silent: PeerId
    provider: PeerId
    after_s: float


class AttemptLost(TraceEvent, tag="attempt_lost"):
    """Another provider answered first: this one was told to stop, and is paid for what it had sent."""

    request_id: RequestId
    provider: PeerId
    delivered_tokens: int
    "That had arrived by then."


class RequestResumed(TraceEvent, tag="request_resumed"):
    """A gateway asked another provider to continue a broken answer."""

    request_id: RequestId
    provider: PeerId
    delivered_tokens: int
    "What the client has."


class AttemptFailed(TraceEvent, tag="attempt_failed"):
    """One attempt ended without a complete answer."""

    request_id: RequestId
    provider: PeerId
    code: int
    busy: bool
    message: str


class RequestFinished(TraceEvent, tag="request_finished"):
    """The client got its last event. outcome: completed, rejected, failed or cancelled."""

    request_id: RequestId
    outcome: str
    provider: PeerId | None
    prompt_tokens: int
    completion_tokens: int
    paid_credits: int
    error: str


class ProviderAdmitted(TraceEvent, tag="provider_admitted"):
    """A provider quoted (or refused) a request."""

    request_id: RequestId
    admitted: bool
    reason: str
    queued: int


class ReceiptIssued(TraceEvent, tag="receipt_issued"):
    """A provider signed a receipt."""

    request_id: RequestId
    channel: ChannelId
    seq: int
    amount: int
    cum: int


class ReceiptAcknowledged(TraceEvent, tag="receipt_acknowledged"):
    """A payer signed for a channel up to seq."""

    channel: ChannelId
    seq: int
    cum: int


class EvidenceRecorded(TraceEvent, tag="evidence_recorded"):
    """A peer was seen to break a rule."""

    peer: PeerId
    kind: str
    detail: str


class EvidenceImported(TraceEvent, tag="evidence_imported"):
    """What a witness signed about a peer counts from here on."""

    peer: PeerId
    witness: PeerId
    kind: str


class EvidenceRefused(TraceEvent, tag="evidence_refused"):
    """A line of imported evidence does not count."""

    line: int
    "From 1."
    reason: str
    "Begins with its name: evidence (malformed), evidence_foreign, evidence_old, evidence_early, evidence_signature."


class TrustChanged(TraceEvent, tag="trust_changed"):
    """What a gateway holds against a provider."""

    peer: PeerId
    distrust: float
    passed_over: bool
    "It gets no request while anybody else can take it."


class ProvidersPassedOver(TraceEvent, tag="providers_passed_over"):
    """Distrusted candidates that a request was kept from."""

    request_id: RequestId
    peers: tuple[PeerId, ...]


class ReceiptsIngested(TraceEvent, tag="receipts_ingested"):
    """The aggregator took receipts of a channel into an epoch."""

    channel: ChannelId
    epoch: int
    accepted: int
    cum: int


class EpochCommitted(TraceEvent, tag="epoch_committed"):
    """A root is on the ledger."""

    epoch: int
    root: bytes
    count: int


class SettlementWarned(TraceEvent, tag="settlement_warned"):
    """Money is at risk and this node can't help it alone: an operator should look."""

    subject: str
    detail: str


class LedgerMoved(TraceEvent, tag="ledger_moved"):
    """The contract accepted a transaction."""

    event: LedgerEvent


class LookupFinished(TraceEvent, tag="lookup_finished"):
    """An iterative Kademlia lookup ended."""

    key: bytes
    found: bool
    asked: int
    hops: int
