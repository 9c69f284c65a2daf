"""The gateway's flows: `handle` is the one entry for a client's request, live or simulated.

Rules of this file: it awaits and moves values; every rule is in admission, session, delivery, payer or the policy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from quiver import trace
from quiver.errors import (
    BadSignature,
    Busy,
    NoProvider,
    PeerError,
    PeerUnreachable,
    QuiverError,
    RejectionReason,
    RequestRejected,
    SettlementError,
    Unavailable,
    WireCode,
)
from quiver.gateway.admission import GatewayAdmission
from quiver.gateway.delivery import Delivery
from quiver.gateway.discovery import Discovery, FindProviders
from quiver.gateway.inbox import RequestInbox
from quiver.gateway.link import ProviderLink
from quiver.gateway.purse import Purse
from quiver.gateway.session import Session
from quiver.ids import ModelId, PeerId
from quiver.runtime import Nursery, Runtime
from quiver.selection.candidates import CandidateTable
from quiver.selection.policy import Policy, check_decision, tell
from quiver.values import frames
from quiver.values.decision import Outcome, Scored
from quiver.values.offer import Offer
from quiver.values.receipt import SignedReceipt
from quiver.values.request import Failure, Final, InferenceRequest, Principal, RequestEvent, TokenChunk


class GatewayService:
    """Call `run` as a task; then `handle` requests."""

    def __init__(
        self,
        runtime: Runtime,
        policy: Policy,
        models: Mapping[str, ModelId],
        find_providers: FindProviders,
    ) -> None:
        self.runtime = runtime
        self.policy = policy
        self.models = dict(models)
        "Names this gateway serves, each pinned to a content digest."
        self.admission = GatewayAdmission(runtime.params)
        self.table = CandidateTable(runtime.params, opening_cost_credits=runtime.ledger.opening_cost_credits)
        self.discovery = Discovery(runtime, self.table, find_providers)
        self.purse = Purse(runtime)
        self._nursery: Nursery | None = None

    # ---- in the background

    async def run(self) -> None:
        """Keep offers, loads and channels fresh until cancelled."""
        async with Nursery() as nursery:
            self._nursery = nursery
            for model in self.models.values():
                nursery.start(self._discover_always(model))
            nursery.start(self._probe_always())

    async def _discover_always(self, model: ModelId) -> None:
        while True:
            await self.prepare(model)
            await self.runtime.clock.sleep(self.runtime.params.discovery_refresh_s)

    async def prepare(self, model: ModelId) -> None:
        """Find providers of a model and connect to a random sample of them, up to `channels_max`."""
        try:
            await self.discovery.refresh(model)
        except QuiverError:
            # A failed lookup leaves what we know; the next round tries again.
            pass
        await self._connect_sample(model)

    async def _connect_sample(self, model: ModelId) -> None:
        now = self.runtime.clock.now()
        unconnected = [
            candidate.peer for candidate in self.table.candidates(model, now) if self.purse.link(candidate.peer) is None
        ]
        room = self.runtime.params.channels_max - len(self.purse.links)
        chosen = self.runtime.rng.sample(unconnected, min(max(room, 0), len(unconnected)))
        async with Nursery() as nursery:
            for peer in chosen:
                offer = self.table.offer(peer, model, now)
                if offer is not None:
                    nursery.start(self._try_connect(offer))

    async def _try_connect(self, offer: Offer) -> None:
        try:
            await self._connect(offer)
        except (QuiverError, Unavailable):
            self.table.on_channel(offer.provider, ready=False)

    async def _connect(self, offer: Offer) -> ProviderLink:
        if self._nursery is None:
            raise Unavailable("the gateway is not running yet")
        try:
            link = await self.purse.connect(offer, self._nursery)
        except SettlementError as error:
            raise Unavailable(f"no channel to this provider: {error}") from error
        self.table.on_channel(offer.provider, ready=True)
        return link

    async def _probe_always(self) -> None:
        """Load reports of the providers we have channels to."""
        while True:
            await self.runtime.clock.sleep(self.runtime.params.load_refresh_s)
            for peer in self.table.peers():
                self.table.on_channel(peer, ready=self.purse.link(peer) is not None)
            await self.discovery.ask(sorted(self.purse.links), None)

    async def close(self) -> None:
        """Acknowledge what was delivered, so that nobody waits for its money."""
        for peer in sorted(self.purse.links):
            link = self.purse.link(peer)
            if link is not None:
                try:
                    await link.acknowledge()
                except PeerError:
                    continue

    # ---- a request

    async def handle(self, request: InferenceRequest, principal: Principal) -> AsyncIterator[RequestEvent]:
        """Chunks as they come, then one `Final` or `Failure`. `RequestRejected` or `Busy` if the request is not let in."""
        runtime = self.runtime
        runtime.trace.emit(
            trace.RequestArrived(
                at_s=runtime.clock.now(), node=runtime.signer.peer_id, request_id=request.request_id,
                model=request.model, prompt_tokens_estimate=request.prompt_tokens_estimate, max_tokens=request.max_tokens,
            )
        )  # fmt: skip
        try:
            model = self.models.get(request.model)
            if model is None:
                raise RequestRejected(RejectionReason.UNKNOWN_MODEL, f"model {request.model!r} is not served here")
            self.admission.admit(request, principal, now=runtime.clock.now(), utc_ms=runtime.clock.utc_ms())
        except (RequestRejected, Busy) as error:
            self._finished(request, "rejected", None, None, str(error))
            raise
        session, last = Session(request, runtime.params), None
        events = self._attempts(session, model)
        try:
            async for event in events:
                last = event
                yield event
        finally:
            self.admission.release()
            await events.aclose()  # type: ignore[attr-defined]
            self._report(session, last)

    def _report(self, session: Session, last: RequestEvent | None) -> None:
        if isinstance(last, Final):
            self._finished(session.request, "completed", last.provider, last, "")
        elif isinstance(last, Failure):
            # Nothing was delivered and only load stood in the way: that is a rejection, not a failure.
            outcome = (
                "rejected"
                if last.code in (WireCode.BUSY, WireCode.CREDIT) and session.first_token_s is None
                else "failed"
            )
            self._finished(session.request, outcome, session.tried[-1] if session.tried else None, last, last.message)
        else:
            self._finished(
                session.request, "cancelled", session.tried[-1] if session.tried else None, None, "client left"
            )

    def _finished(
        self, request: InferenceRequest, outcome: str, provider: PeerId | None, last: Final | Failure | None, error: str
    ) -> None:
        runtime = self.runtime
        final = last if isinstance(last, Final) else None
        runtime.trace.emit(
            trace.RequestFinished(
                at_s=runtime.clock.now(), node=runtime.signer.peer_id, request_id=request.request_id, outcome=outcome,
                provider=provider, prompt_tokens=final.prompt_tokens if final else 0,
                completion_tokens=final.completion_tokens if final else getattr(last, "delivered_tokens", 0),
                paid_credits=last.paid_credits if last is not None else 0, error=error,
            )
        )  # fmt: skip

    async def _attempts(self, session: Session, model: ModelId) -> AsyncIterator[RequestEvent]:
        """One provider after the other until an answer begins."""
        while True:
            try:
                offer, scored, count = await self._choose(session, model)
            except QuiverError as error:
                yield session.failure(error)
                return
            attempt = self._attempt(session, offer, scored, count)
            try:
                async for event in attempt:
                    yield event
                return
            except (Unavailable, PeerError) as error:
                if not session.on_error(error):
                    yield session.failure(error)
                    return
            finally:
                await attempt.aclose()  # type: ignore[attr-defined]

    async def _choose(self, session: Session, model: ModelId) -> tuple[Offer, Scored, int]:
        """Ask the policy; `NoProvider` when nobody is left."""
        clock = self.runtime.clock
        # Providers we are connected to first: asking about all that were ever found costs more than the request.
        candidates = session.eligible(self.table.candidates(model, clock.now(), among=self.purse.links))
        if not candidates:
            candidates = session.eligible(self.table.candidates(model, clock.now()))
        if not candidates and not session.tried:
            async with clock.deadline(self.runtime.params.dial_timeout_s):
                await self.prepare(model)
            candidates = session.eligible(self.table.candidates(model, clock.now()))
        if not candidates:
            raise NoProvider(f"no provider of {session.request.model!r} is left to try", retry_after_s=1.0)
        now = clock.now()
        decision = self.policy.choose(session.request, candidates, now=now, rng=self.runtime.rng)
        check_decision(decision, candidates)
        best = decision.ranked[0]
        offer = self.table.offer(best.peer, model, now)
        if offer is None:
            raise NoProvider("the chosen offer has just expired")
        session.on_dispatch(best.peer, now)
        self.runtime.trace.emit(
            trace.RequestDispatched(
                at_s=now, node=self.runtime.signer.peer_id, request_id=session.request.request_id, provider=best.peer,
                attempt=session.attempts, policy=decision.policy, score=best.score, reason=best.reason,
                candidates=len(candidates),
            )
        )  # fmt: skip
        return offer, best, len(candidates)

    async def _attempt(self, session: Session, offer: Offer, scored: Scored, count: int) -> AsyncIterator[RequestEvent]:
        """One attempt at one provider; its outcome is learned whichever way it ends."""
        runtime, peer, started_s = self.runtime, offer.provider, self.runtime.clock.now()
        error: Unavailable | PeerError | None = None
        final: Final | None = None
        first_s: float | None = None
        with self.table.dispatch(peer):
            stream = self._stream(session, offer)
            try:
                async for event in stream:
                    if first_s is None and isinstance(event, TokenChunk):
                        first_s = runtime.clock.now()
                    if isinstance(event, Final):
                        final = event
                    yield event
            except (Unavailable, PeerError) as caught:
                error = caught
                raise
            finally:
                await stream.aclose()  # type: ignore[attr-defined]
                now = runtime.clock.now()
                if error is not None:
                    self._failed(session, peer, error)
                if final is not None or error is not None:
                    outcome = Outcome(
                        request_id=session.request.request_id, peer=peer, ok=final is not None,
                        busy=isinstance(error, Busy), ttft_s=None if first_s is None else first_s - started_s,
                        e2e_s=now - started_s, completion_tokens=final.completion_tokens if final else 0,
                        prompt_tokens=final.prompt_tokens if final else 0,
                    )  # fmt: skip
                    self.table.on_outcome(outcome, model=offer.model, now=now)
                    tell(self.policy, outcome, now=now)

    def _failed(self, session: Session, peer: PeerId, error: QuiverError) -> None:
        code = error.wire_code if isinstance(error, PeerError) else WireCode.RESOURCE_LIMIT
        self.runtime.trace.emit(
            trace.AttemptFailed(
                at_s=self.runtime.clock.now(), node=self.runtime.signer.peer_id, request_id=session.request.request_id,
                provider=peer, code=code, busy=isinstance(error, Busy), message=str(error),
            )
        )  # fmt: skip

    async def _stream(self, session: Session, offer: Offer) -> AsyncIterator[RequestEvent]:
        """Open, quote, accept, chunks, receipt, end."""
        runtime, request, params = self.runtime, session.request, self.runtime.params
        link = self.purse.link(offer.provider) or await self._connect(offer)
        opened = frames.Open(
            request_id=request.request_id, channel=link.channel.state.channel, model=offer.model, dialect=request.dialect,
            max_tokens=request.max_tokens, prompt_tokens_estimate=request.prompt_tokens_estimate,
            deadline_ms=request.deadline_ms, qos=request.qos, seed=request.seed, sealed=request.sealed,
            prefix_hashes=request.prefix_hashes, body=request.body,
        )  # fmt: skip
        inbox = await link.open(opened)
        try:
            async with runtime.clock.deadline(params.quote_timeout_s):
                quote = await self._quote(link, inbox, offer)
            session.quoted_credits = quote.amount_max
            async for event in self._chunks(session, link, inbox, offer):
                yield event
        finally:
            # What is reserved stays so until the provider has sent its last receipt; the link releases it then.
            link.cancel(request.request_id, WireCode.CLIENT_GONE)
            if self._nursery is not None:
                self.purse.top_up_soon(link, self._nursery)

    async def _quote(self, link: ProviderLink, inbox: RequestInbox, offer: Offer) -> frames.Quote:
        """Wait for the quote, hold it against the offer, reserve and accept."""
        quote = await inbox.get()
        if isinstance(quote, frames.Busy):
            raise Busy("the provider has no room now", retry_after_s=quote.retry_after_s)
        if isinstance(quote, frames.Error):
            raise PeerError(quote.message, peer_id=link.peer, wire_code=_known_code(quote.code))
        if not isinstance(quote, frames.Quote):
            raise PeerError(f"{type(quote).__name__} where a quote was due", peer_id=link.peer)
        asked = (quote.prompt_price, quote.completion_price, quote.minimum_credits)
        if asked != (offer.prompt_price, offer.completion_price, offer.minimum_credits):
            raise PeerError("the quote is not at the offered prices", peer_id=link.peer)
        if not link.channel.reserve(quote.request_id, quote.amount_max):
            raise Busy(
                f"the channel holds {link.channel.available} credits, {quote.amount_max} are quoted", retry_after_s=1.0
            )
        inbox.delivery = Delivery(quote, inbox.request_hash, self.runtime.params)
        await link.accept(quote.request_id)
        self.runtime.trace.emit(
            trace.RequestQuoted(
                at_s=self.runtime.clock.now(), node=self.runtime.signer.peer_id, request_id=quote.request_id,
                provider=link.peer, amount_max=quote.amount_max,
            )
        )  # fmt: skip
        return quote

    async def _chunks(
        self, session: Session, link: ProviderLink, inbox: RequestInbox, offer: Offer
    ) -> AsyncIterator[RequestEvent]:
        runtime, params = self.runtime, self.runtime.params
        delivery = inbox.delivery
        assert delivery is not None
        receipt: SignedReceipt | None = None
        try:
            while True:
                now_ms = runtime.clock.utc_ms()
                wait_s = (session.request.deadline_ms - now_ms) / 1000
                if session.first_token_s is None:
                    wait_s = min(wait_s, params.first_token_timeout_s)
                async with runtime.clock.deadline(wait_s):
                    frame = await inbox.get()
                if isinstance(frame, frames.Chunk):
                    if session.first_token_s is None:
                        session.first_token_s = runtime.clock.now()
                        runtime.trace.emit(
                            trace.FirstToken(
                                at_s=session.first_token_s, node=runtime.signer.peer_id,
                                request_id=frame.request_id, provider=link.peer,
                            )
                        )  # fmt: skip
                    yield TokenChunk(text=frame.text, tokens=frame.tokens)
                elif isinstance(frame, frames.ReceiptFrame):
                    receipt = frame.receipt
                elif isinstance(frame, frames.End):
                    yield self._final(session, link, delivery, offer, receipt, frame)
                    return
                elif isinstance(frame, frames.Error):
                    raise PeerError(frame.message, peer_id=link.peer, wire_code=_known_code(frame.code))
                else:
                    raise PeerError(f"{type(frame).__name__} where an answer was due", peer_id=link.peer)
        finally:
            session.delivered_tokens = delivery.tokens
            session.paid_credits = delivery.billed_credits

    def _final(
        self, session: Session, link: ProviderLink, delivery: Delivery, offer: Offer, receipt: SignedReceipt | None,
        end: frames.End,
    ) -> Final:  # fmt: skip
        """Complete only with all chunks and a valid receipt over them."""
        if end.chunks != delivery.chunks:
            raise PeerUnreachable(f"{delivery.chunks} of {end.chunks} chunks arrived")
        if receipt is None:
            raise BadSignature("the answer ended without a receipt", peer_id=link.peer)
        last = link.channel.log.last
        covered = last is not None and last.seq >= receipt.body.seq
        return Final(
            done_reason=end.done_reason, prompt_tokens=delivery.billed_prompt,
            completion_tokens=delivery.billed_completion, provider=link.peer, model=offer.model, receipt=receipt,
            acknowledgement=last if covered else None, queue_s=end.queue_s, attempts=session.attempts,
            paid_credits=delivery.billed_credits, quoted_credits=session.quoted_credits,
        )  # fmt: skip


def _known_code(code: int) -> WireCode:
    try:
        return WireCode(code)
    except ValueError:
        return WireCode.INTERNAL
