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
from quiver.gateway import contest
from quiver.gateway.admission import GatewayAdmission
from quiver.gateway.attempt import Attempt
from quiver.gateway.discovery import FindProviders
from quiver.gateway.hedging import HedgeTerms, Hedging
from quiver.gateway.pool import ProviderPool
from quiver.gateway.session import Session
from quiver.gateway.suspicion import Suspicion
from quiver.gateway.till import Sale, Till
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
        hedging: HedgeTerms | None = None,
        resume: bool = False,
    ) -> None:
        """`detectors` look for fraud in what this gateway pays for; `witnesses` are keys whose evidence it may import.

        `hedging`: ask a second provider while the first is silent. `resume`: let another continue a broken answer.
        """
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
        self.hedging = None if hedging is None else Hedging(hedging)
        self.resume = resume
        self.till: Till | None = None
        "Charges clients that have an account; without one nobody pays this gateway."
        self._node = runtime.signer.peer_id

    async def run(self) -> None:
        """Keep providers found and connected until cancelled."""
        async with Nursery() as nursery:
            nursery.start(self.purse.concerns.run())
            if self.suspicion is not None:
                nursery.start(self.suspicion.run())
            await self.pool.run()

    async def close(self) -> None:
        """Acknowledge what was delivered, so that nobody waits for its money."""
        await self.pool.close()

    async def handle(self, request: InferenceRequest, principal: Principal) -> AsyncIterator[RequestEvent]:
        """Chunks as they come, then one `Final` or `Failure`. `RequestRejected` or `Busy` if the request is not let in."""
        model, sale = self._admit(request, principal)
        session, last = Session(request, self.runtime.params, resume=self.resume), None
        try:
            while last is None:
                event = await self._next(session, model)
                if not isinstance(event, TokenChunk):
                    event = last = event if sale is None else await sale.finish(session, event)
                yield event
        finally:
            self.admission.release()
            for attempt in list(session.running):
                self._end_attempt(session, attempt)
            self._report(session, last)
            if sale is not None:
                await sale.abandon(session)

    def _admit(self, request: InferenceRequest, principal: Principal) -> tuple[ModelId, Sale | None]:
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
            sale = self._let_in(request, principal, model)
            if self.hedging is not None:
                self.hedging.on_request()
        except (RequestRejected, Busy) as error:
            self._finished(Session(request, runtime.params), "rejected", None, str(error))
            raise
        return model, sale

    def _let_in(self, request: InferenceRequest, principal: Principal, model: ModelId) -> Sale | None:
        clock = self.runtime.clock
        self.admission.admit(request, principal, now=clock.now(), utc_ms=clock.utc_ms())
        try:
            return None if self.till is None else self.till.open(request, principal, model)
        except (RequestRejected, Busy):
            self.admission.release()
            raise

    async def _next(self, session: Session, model: ModelId) -> RequestEvent:
        """The next event of the answer; one provider after the other is tried until an answer begins, or goes on."""
        while True:
            if not session.running:
                try:
                    await self._choose(session, model)
                except UsageError:
                    # The policy broke its contract: a bug to be seen, not an answer to a client.
                    raise
                except QuiverError as error:
                    return session.failure(error)
            delay_s = None if self.hedging is None else self._hedge_delay_s(session, model, self.hedging)
            try:
                event = await (session.running[0].next() if delay_s is None else self._compete(session, model, delay_s))
            except (Unavailable, PeerError) as error:
                self._end_attempt(session, session.running[0], error=error)
                if not session.on_error(error):
                    return session.failure(error)
                continue
            if isinstance(event, Final):
                self._end_attempt(session, session.running[0], final=event)
            elif session.transcript is not None:
                session.transcript.add(event)
            return event

    # ---- hedging

    def _hedge_delay_s(self, session: Session, model: ModelId, hedging: Hedging) -> float | None:
        if session.first_token_s is not None or session.hedged or session.is_slowed:
            return None
        return hedging.delay_s(session.request, model)

    async def _compete(self, session: Session, model: ModelId, delay_s: float) -> TokenChunk | Final:
        """The first event of whoever answers first; the other is stopped, and paid for what it had sent."""

        def begin_second() -> Attempt | None:
            return self._hedge(session, model, delay_s)

        def on_failed(attempt: Attempt, error: contest.Failed) -> None:
            self._end_attempt(session, attempt, error=error)
            session.on_error(error)

        winner, result = await contest.decide(
            self.runtime.clock, session.running[0], delay_s=delay_s, begin_second=begin_second, on_failed=on_failed
        )
        for loser in [attempt for attempt in session.running if attempt is not winner]:
            self._end_attempt(session, loser, lost=True)
        if isinstance(result, (Unavailable, PeerError)):
            raise result
        return result

    def _hedge(self, session: Session, model: ModelId, delay_s: float) -> Attempt | None:
        """A second attempt at somebody else's provider, if one is connected and the budget has one left."""
        assert self.hedging is not None
        first, now = session.running[0].offer, self.runtime.clock.now()
        candidates = [
            candidate
            for candidate in session.eligible(self.pool.candidates(model))
            if candidate.channel_ready
            and (offer := self.table.offer(candidate.peer, model, now)) is not None
            and offer.payout != first.payout
        ]
        if not candidates or not self.hedging.take():
            return None
        session.hedged = True
        second = self._dispatch(session, model, candidates)
        self.runtime.trace.emit(
            trace.RequestHedged(
                at_s=now, node=self._node, request_id=session.request.request_id, silent=first.provider,
                provider=second.offer.provider, after_s=delay_s,
            )
        )  # fmt: skip
        return second

    # ---- whom to ask

    async def _choose(self, session: Session, model: ModelId) -> None:
        """Ask the policy and begin; `NoProvider` when nobody is left."""
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
        attempt = self._dispatch(session, model, candidates)
        if session.first_token_s is not None:
            self.runtime.trace.emit(
                trace.RequestResumed(
                    at_s=clock.now(), node=self._node, request_id=session.request.request_id,
                    provider=attempt.offer.provider, delivered_tokens=session.delivered_tokens,
                )
            )  # fmt: skip

    def _dispatch(self, session: Session, model: ModelId, candidates: Sequence[Candidate]) -> Attempt:
        runtime, now = self.runtime, self.runtime.clock.now()
        if self.suspicion is not None:
            candidates = self.suspicion.sift(session.request.request_id, candidates)
        decision = self.policy.choose(session.asked, candidates, now=now, rng=runtime.rng)
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
        attempt = Attempt(runtime, session, offer, self.table.dispatch(best.peer), self.pool.connect)
        session.running.append(attempt)
        return attempt

    # ---- ends

    def _end_attempt(
        self, session: Session, attempt: Attempt, *, final: Final | None = None,
        error: Unavailable | PeerError | None = None, lost: bool = False,
    ) -> None:  # fmt: skip
        """One attempt is over; how it ended is learned, unless the client left in its middle."""
        session.running.remove(attempt)
        is_over = final is not None or error is not None or lost
        attempt.close(WireCode.ELSEWHERE if is_over else WireCode.CLIENT_GONE)
        if attempt.link is not None:
            self.pool.top_up_soon(attempt.link)
        if not is_over:
            return
        if error is not None:
            self._attempt_failed(session, attempt, error)
        if lost:
            self._attempt_lost(session, attempt)
        now, first_s, delivery = self.runtime.clock.now(), attempt.first_token_s, attempt.delivery
        silent_s = now - attempt.started_s if lost else None
        outcome = Outcome(
            request_id=session.request.request_id, peer=attempt.offer.provider,
            # An empty answer may be honest, but a peer that gives nothing else must not look like a fast one.
            ok=lost or (final is not None and final.receipt is not None), busy=isinstance(error, Busy), lost=lost,
            ttft_s=silent_s if first_s is None else first_s - attempt.started_s, e2e_s=now - attempt.started_s,
            completion_tokens=delivery.billed_completion if final and delivery else 0,
            prompt_tokens=delivery.billed_prompt if final and delivery else 0,
        )  # fmt: skip
        if final is not None and self.hedging is not None and (ttft_s := session.ttft_s) is not None:
            self.hedging.on_first_token(session.request, attempt.offer.model, ttft_s)
        self.table.on_outcome(outcome, model=attempt.offer.model, now=now)
        tell(self.policy, outcome, now=now)

    def _attempt_lost(self, session: Session, attempt: Attempt) -> None:
        self.runtime.trace.emit(
            trace.AttemptLost(
                at_s=self.runtime.clock.now(), node=self._node, request_id=session.request.request_id,
                provider=attempt.offer.provider, delivered_tokens=attempt.delivery.tokens if attempt.delivery else 0,
            )
        )  # fmt: skip

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
