"""The provider's flows: offers, authorised connections, requests from Open to End, receipts before they are owed.

Rules of this file: it awaits and moves values; every rule is in channel, admission, pricing or metering.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence

import msgspec

from quiver import trace
from quiver.errors import (
    BadSignature,
    DeadlineExceeded,
    PeerError,
    RequestRejected,
    Unavailable,
    WireCode,
)  # fmt: skip
from quiver.identity import signing
from quiver.ids import REQUEST_ID_BYTES, ChannelId, ModelId, PeerId, RequestId
from quiver.ports import InferenceBackend, Stream
from quiver.provider.admission import SlotAdmission, SlotVerdict
from quiver.provider.channel import ProviderChannel
from quiver.provider.generation import next_generation
from quiver.provider.metering import Meter
from quiver.provider.pricing import Price, compute_quote
from quiver.receipts.checks import ChannelTerms
from quiver.receipts.log import ProviderLog
from quiver.receipts.signatures import sign_receipt, verify_acknowledgement
from quiver.runtime import Nursery, Runtime
from quiver.values.backend import BackendRequest, InstalledModel
from quiver.values.frames import (
    Accept,
    AckFrame,
    Authorise,
    Authorised,
    Busy,
    Cancel,
    Chunk,
    End,
    Error,
    InferenceFrame,
    Open,
    Quote,
    ReceiptFrame,
)  # fmt: skip
from quiver.values.offer import Load, Offer, OfferAnswer, OfferQuestion, SignedOffer
from quiver.values.receipt import Acknowledgement
from quiver.wire.protocols import ACKS, INFERENCE, OFFER

# A busy provider asks payers to come back after its expected wait, within these bounds, seconds.
RETRY_AFTER_S_MIN, RETRY_AFTER_S_MAX = 0.1, 30.0


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model on sale."""

    installed: InstalledModel
    price: Price
    prefill_tps: float
    decode_tps: float


class _Job:
    """One request between Open and End."""

    __slots__ = ("open", "quote", "channel", "expires_ms", "task", "cancel_code", "accepted_s", "begun")

    def __init__(self, frame: Open, quote: Quote, channel: ProviderChannel) -> None:
        self.open = frame
        self.quote = quote
        self.channel = channel
        self.task: asyncio.Task[None] | None = None
        self.cancel_code: int | None = None
        self.accepted_s = 0.0
        self.begun = False
        "Its task runs; one that is cancelled before would never clean up."


class ProviderService:
    """Serves `/quiver/offer`, `/quiver/inference` and `/quiver/acks`. Call `start` once, then `run` beside it."""

    def __init__(
        self,
        runtime: Runtime,
        backend: InferenceBackend,
        models: Sequence[ServedModel],
        *,
        slots: int,
        queue_max: int = 16,
        hardware: str = "",
        region: str = "",
    ) -> None:
        self.runtime = runtime
        self.backend = backend
        self.models: dict[ModelId, ServedModel] = {served.installed.model: served for served in models}
        self.admission = SlotAdmission(slots=slots, queue_max=queue_max)
        self.channels: dict[ChannelId, ProviderChannel] = {}
        self.generation = 0
        self._hardware = hardware
        self._region = region
        self._offers: dict[ModelId, SignedOffer] = {}
        self._locks: dict[ChannelId, asyncio.Lock] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._issuing: dict[asyncio.Task[None], None] = {}

    async def start(self) -> None:
        """Raise the durable generation, sign the offers, then serve."""
        runtime = self.runtime
        self.generation, put = next_generation(runtime.store)
        await runtime.store.commit([put])
        await self.sign_offers()
        runtime.transport.answer(OFFER, self._on_offer_question)
        runtime.transport.serve(INFERENCE, self._serve_inference)
        runtime.transport.serve(ACKS, self._serve_acks)

    async def run(self) -> None:
        """Renew the offers before they expire."""
        while True:
            await self.runtime.clock.sleep(self.runtime.params.offer_lease_s / 2)
            await self.sign_offers()

    async def sign_offers(self) -> None:
        """A fresh signature over each model's offer, for one lease."""
        runtime = self.runtime
        expires_ms = runtime.clock.utc_ms() + round(runtime.params.offer_lease_s * 1000)
        for model, served in self.models.items():
            offer = Offer(
                provider=runtime.signer.peer_id, public_key=runtime.signer.public_key, model=model,
                name=served.installed.name, prompt_price=served.price.prompt, completion_price=served.price.completion,
                minimum_credits=served.price.minimum_credits, hardware=self._hardware, slots=self.admission.slots,
                prefill_tps=served.prefill_tps, decode_tps=served.decode_tps, payout=runtime.signer.account,
                chain_id=runtime.ledger.chain_id, contract=runtime.ledger.contract, generation=self.generation,
                expires_ms=expires_ms,
            )  # fmt: skip
            signature = await runtime.signer.sign(signing.offer_bytes(offer))
            self._offers[model] = SignedOffer(offer=offer, signature=signature)

    def _on_offer_question(self, peer: PeerId, question: OfferQuestion) -> OfferAnswer:
        offers = tuple(o for model, o in self._offers.items() if question.model is None or question.model == model)
        load = Load(
            queued=self.admission.queued,
            running=self.admission.running,
            slots=self.admission.slots,
            warm=tuple(self.models),
            region=self._region,
        )
        return OfferAnswer(offers=offers, load=load)

    # ---- connections

    async def _serve_inference(self, stream: Stream) -> None:
        frame = await stream.receive()
        if not isinstance(frame, Authorise):
            raise PeerError("the first frame of an inference stream must be Authorise", peer_id=stream.peer_id)
        channel = await self._authorise(stream.peer_id, frame)
        await stream.send(
            Authorised(channel=channel.state.channel, head=channel.log.head, unacknowledged=channel.log.unacknowledged)
        )
        jobs: dict[RequestId, _Job] = {}
        try:
            async with Nursery() as nursery:
                try:
                    while (frame := await stream.receive()) is not None:
                        await self._on_frame(stream, channel, jobs, nursery, frame)
                finally:
                    nursery.cancel()
        finally:
            for job in jobs.values():
                self._close(job)
        stream.finish()

    async def _authorise(self, peer: PeerId, frame: Authorise) -> ProviderChannel:
        """The payer's channel, once its session key has signed for this very connection."""
        runtime = self.runtime
        ledger = runtime.ledger
        state = ledger.channel(frame.channel)

        def refuse(reason: str) -> PeerError:
            return PeerError(f"Authorise refused: {reason}", peer_id=peer, wire_code=WireCode.NOT_AUTHORISED)

        if state is None or state.closed:
            raise refuse("no such channel on the ledger, or it is closed")
        if state.provider != runtime.signer.account or frame.provider != runtime.signer.peer_id:
            raise refuse("the channel pays another provider")
        if frame.gateway != peer or frame.payer != state.payer or frame.session != state.session:
            raise refuse("it names another gateway, payer or session key")
        if frame.expires_ms < runtime.clock.utc_ms() - runtime.params.clock_skew_ms_max:
            raise refuse("it has expired")
        digest = signing.authorise_digest(
            ledger.chain_id, ledger.contract, frame.channel, frame.gateway, frame.provider, frame.expires_ms
        )
        if not await runtime.verifier.verify_session(state.session, digest, frame.signature):
            raise BadSignature(
                "Authorise refused: the session key's signature does not verify",
                peer_id=peer,
                wire_code=WireCode.NOT_AUTHORISED,
            )
        channel = self._channel(frame.channel)
        channel.state = state
        if frame.last is not None:
            await self._on_acknowledgement(peer, channel, frame.last)
        return channel

    def _channel(self, channel_id: ChannelId) -> ProviderChannel:
        """The channel in memory, read back from the store after a restart."""
        channel = self.channels.get(channel_id)
        if channel is None:
            runtime = self.runtime
            state = runtime.ledger.channel(channel_id)
            if state is None or state.provider != runtime.signer.account:
                raise PeerError("the ledger has no such channel to us", wire_code=WireCode.NOT_AUTHORISED)
            terms = ChannelTerms(
                chain_id=runtime.ledger.chain_id, contract=runtime.ledger.contract, channel=channel_id,
                provider_key=runtime.signer.public_key, payer=state.payer,
            )  # fmt: skip
            channel = ProviderChannel(state, ProviderLog.load(runtime.store, terms), runtime.params)
            self.channels[channel_id] = channel
            self._locks[channel_id] = asyncio.Lock()
        return channel

    async def _on_frame(
        self,
        stream: Stream,
        channel: ProviderChannel,
        jobs: dict[RequestId, _Job],
        nursery: Nursery,
        frame: InferenceFrame,
    ) -> None:
        if isinstance(frame, Open):
            await self._on_open(stream, channel, jobs, frame)
        elif isinstance(frame, Accept):
            job = jobs.get(frame.request_id)
            if job is None:
                await stream.send(
                    Error(request_id=frame.request_id, code=WireCode.DEADLINE, message="no quote, or it has expired")
                )
            elif job.task is None:
                if job.quote.expires_ms < self.runtime.clock.utc_ms():
                    jobs.pop(frame.request_id)
                    self._close(job)
                    await stream.send(
                        Error(request_id=frame.request_id, code=WireCode.DEADLINE, message="quote expired")
                    )
                else:
                    job.accepted_s = self.runtime.clock.now()
                    job.task = nursery.start(self._serve(stream, jobs, job))
        elif isinstance(frame, Cancel):
            job = jobs.get(frame.request_id)
            if job is not None and job.cancel_code is None:
                job.cancel_code = frame.code
                if job.task is None:
                    jobs.pop(frame.request_id)
                    self._close(job)
                    await stream.send(self._end(job, None, "cancelled", 0.0))
                elif job.begun:
                    job.task.cancel()
        else:
            raise PeerError(f"a payer may not send {type(frame).__name__} here", peer_id=stream.peer_id)

    async def _on_open(
        self, stream: Stream, channel: ProviderChannel, jobs: dict[RequestId, _Job], frame: Open
    ) -> None:
        reply = self._admit(channel, jobs, frame)
        self.runtime.trace.emit(
            trace.ProviderAdmitted(
                at_s=self.runtime.clock.now(), node=self.runtime.signer.peer_id, request_id=frame.request_id,
                admitted=isinstance(reply, Quote), reason="" if isinstance(reply, Quote) else WireCode(reply.code).name,
                queued=self.admission.queued,
            )
        )  # fmt: skip
        await stream.send(reply)

    def _admit(self, channel: ProviderChannel, jobs: dict[RequestId, _Job], frame: Open) -> Quote | Busy | Error:
        """Slots, then money; only a quote holds anything."""
        params, request_id = self.runtime.params, frame.request_id
        served = self.models.get(frame.model)
        if frame.channel != channel.state.channel:
            return Error(
                request_id=request_id, code=WireCode.NOT_AUTHORISED, message="not the channel of this connection"
            )
        if served is None:
            return Error(request_id=request_id, code=WireCode.UNKNOWN_MODEL, message="this model is not served here")
        if len(frame.body) > params.body_bytes_max or not 0 < frame.max_tokens <= params.max_tokens_limit:
            return Error(request_id=request_id, code=WireCode.TOO_LARGE, message="body or max_tokens beyond the limit")
        if len(request_id) != REQUEST_ID_BYTES or frame.prompt_tokens_estimate < 0:
            # Neither could ever be on a receipt; a negative estimate would even lower the price.
            return Error(request_id=request_id, code=WireCode.MALFORMED, message="request id or prompt estimate")
        utc_ms = self.runtime.clock.utc_ms()
        self._sweep(jobs, utc_ms)
        verdict = self.admission.check(
            frame.channel, request_id, deadline_ms=frame.deadline_ms + params.clock_skew_ms_max, utc_ms=utc_ms
        )
        if verdict is SlotVerdict.REPLAYED:
            return Error(request_id=request_id, code=WireCode.REPLAYED, message="this request id was seen before")
        if verdict is SlotVerdict.LATE:
            return Error(request_id=request_id, code=WireCode.DEADLINE, message="the deadline has passed")
        wait_s = self.admission.expected_wait_s()
        if verdict is SlotVerdict.BUSY:
            retry_s = min(max(wait_s, RETRY_AFTER_S_MIN), RETRY_AFTER_S_MAX)
            return Busy(request_id=request_id, code=WireCode.BUSY, retry_after_s=retry_s)
        quote = compute_quote(
            frame, served.price, slack_tokens=params.completion_tokens_slack, queue_s=wait_s,
            expires_ms=utc_ms + round(params.quote_timeout_s * 2000),
        )  # fmt: skip
        if channel.refusal(quote.amount_max) is not None or not self._unproven_fits(channel, quote.amount_max):
            self.admission.forget(frame.channel, request_id)
            return Busy(request_id=request_id, code=WireCode.CREDIT, retry_after_s=params.acknowledge_interval_s)
        channel.reserve(request_id, quote.amount_max)
        jobs[request_id] = _Job(frame, quote, channel)
        return quote

    def _unproven_fits(self, channel: ProviderChannel, amount_max: int) -> bool:
        """Strangers together never cost more than one cap: identities are free (Sybils)."""
        if channel.proven:
            return True
        at_risk = sum(other.exposure for other in self.channels.values() if not other.proven)
        return at_risk + amount_max <= self.runtime.params.unproven_credit_max

    def _sweep(self, jobs: dict[RequestId, _Job], utc_ms: int) -> None:
        """Quotes nobody accepted give their slot back; jobs are in the order of their quotes."""
        for request_id, job in list(jobs.items()):
            if job.task is None:
                if job.quote.expires_ms >= utc_ms:
                    return
                del jobs[request_id]
                self._close(job)

    def _close(self, job: _Job) -> None:
        job.channel.release(job.open.request_id)
        self.admission.on_end()

    # ---- one request

    async def _serve(self, stream: Stream, jobs: dict[RequestId, _Job], job: _Job) -> None:
        """From Accept to End. What was quoted stays reserved until the last receipt has turned it into a debt."""
        digest = signing.request_hash(job.open.request_id, job.open.model, job.open.max_tokens, job.open.body)
        meter = Meter(job.quote, digest, self.runtime.params)
        job.begun = True
        try:
            try:
                last = await self._answer(stream, job, meter)
            finally:
                # From here on a Cancel comes too late.
                jobs.pop(job.open.request_id, None)
            await self._bill(stream, job, meter)
        finally:
            self._close(job)
        await stream.send(last)

    async def _answer(self, stream: Stream, job: _Job, meter: Meter) -> End | Error:
        """Wait for a slot and stream pieces; returns what the payer is told after the last receipt."""
        clock, request_id = self.runtime.clock, job.open.request_id
        started_s = clock.now()
        try:
            if job.cancel_code is not None:
                return self._end(job, meter, "cancelled", 0.0)
            await self._slot()
            started_s = clock.now()
            try:
                remaining_s = (job.open.deadline_ms - clock.utc_ms()) / 1000
                async with clock.deadline(remaining_s):
                    reason = await self._stream_pieces(stream, job, meter)
            finally:
                self._free_slot(clock.now() - started_s)
            return self._end(job, meter, reason, started_s - job.accepted_s)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if job.cancel_code is None or task is None:
                raise
            # The payer cancelled: what was sent is still owed, so this task lives on for the last receipt.
            task.uncancel()
            return self._end(job, meter, "cancelled", started_s - job.accepted_s)
        except DeadlineExceeded:
            return Error(request_id=request_id, code=WireCode.DEADLINE, message="not finished before the deadline")
        except Unavailable as error:
            return Error(
                request_id=request_id,
                code=WireCode.BACKEND_FAILED,
                message=str(error),
                retry_after_s=error.retry_after_s,
            )
        except RequestRejected as error:
            return Error(request_id=request_id, code=WireCode.MALFORMED, message=str(error))

    async def _stream_pieces(self, stream: Stream, job: _Job, meter: Meter) -> str:
        frame = job.open
        request = BackendRequest(
            request_id=frame.request_id, name=self.models[frame.model].installed.name, model=frame.model,
            dialect=frame.dialect, body=frame.body, max_tokens=frame.max_tokens,
            prompt_tokens_estimate=frame.prompt_tokens_estimate, seed=frame.seed,
        )  # fmt: skip
        every, reason = self.runtime.params.receipt_every_tokens, ""
        pieces = self.backend.generate(request)
        try:
            async for piece in pieces:
                if piece.text:
                    index = meter.chunks
                    meter.on_chunk(piece.text.encode(), piece.tokens, piece.prompt_tokens)
                    await stream.send(
                        Chunk(request_id=frame.request_id, index=index, tokens=piece.tokens, text=piece.text)
                    )
                if piece.done_reason is not None:
                    meter.set_prompt(piece.prompt_tokens)
                    if piece.completion_tokens is not None:
                        meter.set_completion(piece.completion_tokens)
                    reason = piece.done_reason
                elif meter.unbilled_tokens >= every:
                    await self._bill(stream, job, meter)
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        if not reason:
            raise Unavailable("the engine's answer was cut off")
        return reason

    def _end(self, job: _Job, meter: Meter | None, reason: str, queue_s: float) -> End:
        return End(
            request_id=job.open.request_id,
            done_reason=reason,
            prompt_tokens=meter.prompt_tokens if meter else 0,
            completion_tokens=meter.completion_tokens if meter else 0,
            chunks=meter.chunks if meter else 0,
            queue_s=queue_s,
        )

    async def _slot(self) -> None:
        """First come, first served."""
        admission = self.admission
        if admission.running < admission.slots and not self._waiting:
            admission.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free_slot(None)
            raise

    def _free_slot(self, service_s: float | None) -> None:
        if service_s is not None:
            self.admission.on_served(service_s)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.admission.running -= 1

    async def _bill(self, stream: Stream, job: _Job, meter: Meter) -> None:
        """Sign for what is new. Shielded: a receipt that has a seq must become durable, whoever cancels the request.

        A receipt of ours that is still on its way goes first, so End never overtakes it.
        """
        if meter.is_settled and not self._locks[job.channel.state.channel].locked():
            return
        task = asyncio.get_running_loop().create_task(self._issue(stream, job, meter))
        self._issuing[task] = None
        task.add_done_callback(lambda done: self._issuing.pop(done, None))
        await asyncio.shield(task)

    async def _issue(self, stream: Stream, job: _Job, meter: Meter) -> None:
        """One receipt at a time per channel, so seq and cum never fork: durable first, then sent."""
        runtime, channel = self.runtime, job.channel
        async with self._locks[channel.state.channel]:
            if meter.is_settled:
                return
            body = meter.next_receipt(
                channel.log.terms, channel.log.head, request_id=job.open.request_id, model=job.open.model,
                issued_ms=runtime.clock.utc_ms(),
            )  # fmt: skip
            signed = await sign_receipt(runtime.signer, body)
            batch = channel.on_issued(signed)
            meter.on_billed(body)
            await runtime.store.commit(batch)
            runtime.trace.emit(
                trace.ReceiptIssued(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, request_id=body.request_id,
                    channel=body.channel, seq=body.seq, amount=body.amount, cum=body.cum,
                )
            )  # fmt: skip
            await stream.send(ReceiptFrame(request_id=body.request_id, receipt=signed))

    # ---- acknowledgements

    async def _serve_acks(self, stream: Stream) -> None:
        while (frame := await stream.receive()) is not None:
            assert isinstance(frame, AckFrame)
            await self._on_acknowledgement(
                stream.peer_id, self._channel(frame.acknowledgement.channel), frame.acknowledgement
            )
        stream.finish()

    async def _on_acknowledgement(
        self, peer: PeerId, channel: ProviderChannel, acknowledgement: Acknowledgement
    ) -> None:
        """Verify, count, make durable. A bad one is evidence and ends the stream it came on."""
        runtime, ledger = self.runtime, self.runtime.ledger
        try:
            await verify_acknowledgement(
                runtime.verifier, acknowledgement, chain_id=ledger.chain_id, contract=ledger.contract,
                session=channel.state.session,
            )  # fmt: skip
            batch = channel.on_acknowledged(acknowledgement)
        except PeerError as error:
            runtime.trace.emit(
                trace.EvidenceRecorded(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=peer, kind=type(error).__name__,
                    detail=str(error),
                )
            )  # fmt: skip
            raise
        if batch:
            await runtime.store.commit(batch)


def content_key(model: ModelId) -> bytes:
    """DHT key under which providers of a model are found."""
    return hashlib.sha256(model).digest()
