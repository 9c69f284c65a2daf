"""The gateway's flows: `handle` is the one entry for a client's request, live or simulated.

Rules of this file: it awaits and moves values; every rule is in admission, session, delivery, payer or the policy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from quiver import trace
from quiver.errors import (
    Busy,
    NoProvider,
    PeerError,
    QuiverError,
    RejectionReason,
    RequestRejected,
    Unavailable,
    UsageError,
    WireCode,
)  # fmt: skip
from quiver.gateway.admission import GatewayAdmission
from quiver.gateway.attempt import Attempt
from quiver.gateway.discovery import FindProviders
from quiver.gateway.pool import ProviderPool
from quiver.gateway.session import Session
from quiver.gateway.suspicion import Suspicion
from quiver.ids import ModelId
from quiver.receipts.fraud.detector import Detector
from quiver.receipts.history import Book
from quiver.runtime import Nursery, Runtime
from quiver.selection.policy import Policy, check_decision, tell, wanted_probes
from quiver.selection.reputation import Reputation
from quiver.values.decision import Candidate, Outcome
from quiver.values.request import Failure, Final, InferenceRequest, Principal, RequestEvent, TokenChunk


class GatewayService:
    """Call `run` as a task; then `handle` requests."""

    def __init__(
        self,
        runtime: Runtime,
        policy: Policy,
        models: Mapping[str, ModelId],
        find_providers: FindProviders,
        *,
        detectors: Sequence[Detector] = (),
        witnesses: Iterable[bytes] = (),
    ) -> None:
        """`detectors` look for fraud in what this gateway pays for; `witnesses` are keys whose evidence it may import."""
        self.runtime = runtime
        self.policy = policy
        self.models = dict(models)
        "Names this gateway serves, each pinned to a content digest."
        self.admission = GatewayAdmission(runtime.params)
        self.pool = ProviderPool(runtime, tuple(self.models.values()), find_providers)
        self.table = self.pool.table
        self.purse = self.pool.purse
        self.reputation = Reputation(witnesses)
        self.suspicion: Suspicion | None = None
        if detectors:
            book = self.purse.book = Book()
            self.suspicion = Suspicion(
                runtime, book, tuple(detectors), self.reputation, self.table, tuple(self.models.values())
            )
        self._node = runtime.signer.peer_id

    async def run(self) -> None:
        """Keep providers found and connected until cancelled."""
        async with Nursery() as nursery:
            if self.suspicion is not None:
                nursery.start(self.suspicion.run())
            await self.pool.run()

    async def close(self) -> None:
        """Acknowledge what was delivered, so that nobody waits for its money."""
        await self.pool.close()

    async def handle(self, request: InferenceRequest, principal: Principal) -> AsyncIterator[RequestEvent]:
        """Chunks as they come, then one `Final` or `Failure`. `RequestRejected` or `Busy` if the request is not let in."""
        model = self._admit(request, principal)
        session, last = Session(request, self.runtime.params), None
        try:
            while last is None:
                event = await self._next(session, model)
                if not isinstance(event, TokenChunk):
                    last = event
                yield event
        finally:
            self.admission.release()
            self._close_attempt(session)
            self._report(session, last)

    def _admit(self, request: InferenceRequest, principal: Principal) -> ModelId:
        runtime = self.runtime
        runtime.trace.emit(
            trace.RequestArrived(
                at_s=runtime.clock.now(), node=self._node, request_id=request.request_id, model=request.model,
                prompt_tokens_estimate=request.prompt_tokens_estimate, max_tokens=request.max_tokens,
            )
        )  # fmt: skip
        try:
            model = self.models.get(request.model)
            if model is None:
                raise RequestRejected(RejectionReason.UNKNOWN_MODEL, f"model {request.model!r} is not served here")
            self.admission.admit(request, principal, now=runtime.clock.now(), utc_ms=runtime.clock.utc_ms())
        except (RequestRejected, Busy) as error:
            self._finished(Session(request, runtime.params), "rejected", None, str(error))
            raise
        return model

    async def _next(self, session: Session, model: ModelId) -> RequestEvent:
        """The next event of the answer; one provider after the other is tried until an answer begins."""
        while True:
            if session.attempt is None:
                try:
                    session.attempt = await self._choose(session, model)
                except UsageError:
                    # The policy broke its contract: a bug to be seen, not an answer to a client.
                    raise
                except QuiverError as error:
                    return session.failure(error)
            try:
                event = await session.attempt.next()
            except (Unavailable, PeerError) as error:
                self._close_attempt(session, error=error)
                if not session.on_error(error):
                    return session.failure(error)
                continue
            if isinstance(event, Final):
                self._close_attempt(session, final=event)
            return event

    async def _choose(self, session: Session, model: ModelId) -> Attempt:
        """Ask the policy; `NoProvider` when nobody is left."""
        clock, table = self.runtime.clock, self.table
        candidates = session.eligible(self.pool.candidates(model))
        if not candidates:
            # Those we are connected to were all tried.
            candidates = session.eligible(table.candidates(model, clock.now()))
        if not candidates and not session.tried:
            async with clock.deadline(self.runtime.params.dial_timeout_s):
                await self.pool.prepare(model)
            candidates = session.eligible(table.candidates(model, clock.now()))
        if not candidates:
            raise NoProvider(f"no provider of {session.request.model!r} is left to try", retry_after_s=1.0)
        return self._dispatch(session, model, candidates)

    def _dispatch(self, session: Session, model: ModelId, candidates: Sequence[Candidate]) -> Attempt:
        runtime, now = self.runtime, self.runtime.clock.now()
        candidates = self.reputation.trusted(candidates, runtime.clock.utc_ms())
        decision = self.policy.choose(session.request, candidates, now=now, rng=runtime.rng)
        check_decision(decision, candidates)
        probes = wanted_probes(self.policy, now=now, rng=runtime.rng)
        if probes:
            self.pool.probe(probes)
        best = decision.ranked[0]
        offer = self.table.offer(best.peer, model, now)
        if offer is None:
            raise NoProvider("the chosen offer has just expired")
        session.on_dispatch(best.peer, now)
        runtime.trace.emit(
            trace.RequestDispatched(
                at_s=now, node=self._node, request_id=session.request.request_id, provider=best.peer,
                attempt=session.attempts, policy=decision.policy, score=best.score, reason=best.reason,
                candidates=len(candidates),
            )
        )  # fmt: skip
        return Attempt(runtime, session, offer, self.table.dispatch(best.peer), self.pool.connect)

    # ---- ends

    def _close_attempt(
        self, session: Session, *, final: Final | None = None, error: Unavailable | PeerError | None = None
    ) -> None:
        """One attempt is over; how it ended is learned, unless the client left in its middle."""
        attempt, session.attempt = session.attempt, None
        if attempt is None:
            return
        attempt.close()
        if attempt.link is not None:
            self.pool.top_up_soon(attempt.link)
        if final is None and error is None:
            return
        if error is not None:
            self._attempt_failed(session, attempt, error)
        now, first_s = self.runtime.clock.now(), attempt.first_token_s
        outcome = Outcome(
            request_id=session.request.request_id, peer=attempt.offer.provider,
            # An empty answer may be honest, but a peer that gives nothing else must not look like a fast one.
            ok=final is not None and final.receipt is not None, busy=isinstance(error, Busy),
            ttft_s=None if first_s is None else first_s - attempt.started_s, e2e_s=now - attempt.started_s,
            completion_tokens=final.completion_tokens if final else 0, prompt_tokens=final.prompt_tokens if final else 0,
        )  # fmt: skip
        self.table.on_outcome(outcome, model=attempt.offer.model, now=now)
        tell(self.policy, outcome, now=now)

    def _attempt_failed(self, session: Session, attempt: Attempt, error: QuiverError) -> None:
        code = error.wire_code if isinstance(error, PeerError) else WireCode.RESOURCE_LIMIT
        self.runtime.trace.emit(
            trace.AttemptFailed(
                at_s=self.runtime.clock.now(), node=self._node, request_id=session.request.request_id,
                provider=attempt.offer.provider, code=code, busy=isinstance(error, Busy), message=str(error),
            )
        )  # fmt: skip

    def _report(self, session: Session, last: Final | Failure | None) -> None:
        if last is None:
            self._finished(session, "cancelled", None, "client left")
        elif isinstance(last, Final):
            self._finished(session, "completed", last, "")
        else:
            # Nothing was delivered and only load stood in the way: that is a rejection, not a failure.
            waited = last.code in (WireCode.BUSY, WireCode.CREDIT) and session.first_token_s is None
            self._finished(session, "rejected" if waited else "failed", last, last.message)

    def _finished(self, session: Session, outcome: str, last: Final | Failure | None, error: str) -> None:
        runtime, final = self.runtime, last if isinstance(last, Final) else None
        provider = final.provider if final else session.tried[-1] if session.tried else None
        runtime.trace.emit(
            trace.RequestFinished(
                at_s=runtime.clock.now(), node=self._node, request_id=session.request.request_id, outcome=outcome,
                provider=provider, prompt_tokens=final.prompt_tokens if final else 0,
                completion_tokens=final.completion_tokens if final else session.delivered_tokens,
                paid_credits=final.paid_credits if final else session.paid_credits, error=error,
            )
        )  # fmt: skip
