"""One payer's inference stream: authorised once, then requests from Open to End beside each other.

Rules of this file: it awaits and moves values; every rule is in payers, channel, admission, pricing or metering.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from quiver import trace
from quiver.errors import PeerError, StreamReset, WireCode
from quiver.ids import REQUEST_ID_BYTES, ModelId, RequestId
from quiver.ports import InferenceBackend, Stream
from quiver.provider.admission import SlotAdmission, SlotVerdict
from quiver.provider.channel import ProviderChannel
from quiver.provider.job import QUOTE_LIFETIME, Job, Stop
from quiver.provider.models import ServedModel
from quiver.provider.payers import Payers
from quiver.provider.pricing import compute_quote
from quiver.provider.slots import SlotQueue
from quiver.runtime import Alarms, Nursery, Runtime
from quiver.units import ms_from_s
from quiver.values.frames import (
    Accept,
    Authorise,
    Authorised,
    Busy,
    Cancel,
    Error,
    Open,
    Quote,
)  # fmt: skip

# A busy provider asks payers to come back after its expected wait, within these bounds, seconds.
RETRY_AFTER_S_MIN, RETRY_AFTER_S_MAX = 0.1, 30.0


class PayerConnection:
    """Lives as long as the stream, and until the last receipt of what it had begun."""

    def __init__(
        self, stream: Stream, *, runtime: Runtime, backend: InferenceBackend, models: Mapping[ModelId, ServedModel],
        admission: SlotAdmission, slots: SlotQueue, payers: Payers,
    ) -> None:  # fmt: skip
        self._stream = stream
        self._runtime = runtime
        self._backend = backend
        self._models = models
        self._admission = admission
        self._slots = slots
        self._payers = payers
        self._alarms = Alarms(asyncio.get_running_loop())
        self._jobs: dict[RequestId, Job] = {}

    async def run(self) -> None:
        """Serve until the payer ends the stream. `PeerError` for a payer that breaks the protocol."""
        stream = self._stream
        frame = await stream.receive()
        if not isinstance(frame, Authorise):
            raise PeerError("the first frame of an inference stream must be Authorise", peer_id=stream.peer_id)
        channel = await self._payers.authorise(stream.peer_id, frame)
        await stream.send(
            Authorised(channel=channel.state.channel, head=channel.log.head, unacknowledged=channel.log.unacknowledged)
        )
        try:
            async with Nursery() as nursery:
                failure = await self._read(channel, nursery)
                # What was delivered is billed, whether the payer is still there or not.
                for job in list(self._jobs.values()):
                    job.stop(Stop.DISCONNECTED)
        finally:
            # Never accepted, or cut off together with this node before their task ran.
            for job in list(self._jobs.values()):
                self._close(job)
        if failure is not None:
            raise failure
        stream.finish()

    async def _read(self, channel: ProviderChannel, nursery: Nursery) -> PeerError | None:
        """Until the stream ends; returns why, unless it was the payer's clean end."""
        receive = self._stream.receive
        try:
            while (frame := await receive()) is not None:
                if isinstance(frame, Open):
                    await self._on_open(channel, frame)
                elif isinstance(frame, Accept):
                    await self._on_accept(nursery, frame)
                elif isinstance(frame, Cancel):
                    await self._on_cancel(frame)
                else:
                    raise PeerError(f"a payer may not send {type(frame).__name__} here", peer_id=self._stream.peer_id)
        except PeerError as error:
            return error
        return None

    async def _on_open(self, channel: ProviderChannel, frame: Open) -> None:
        reply = self._admit(channel, frame)
        admitted = isinstance(reply, Quote)
        self._runtime.trace.emit(
            trace.ProviderAdmitted(
                at_s=self._runtime.clock.now(), node=self._runtime.signer.peer_id, request_id=frame.request_id,
                admitted=admitted, reason="" if isinstance(reply, Quote) else WireCode(reply.code).name,
                queued=self._admission.queued,
            )
        )  # fmt: skip
        await self._stream.send(reply)

    def _admit(self, channel: ProviderChannel, frame: Open) -> Quote | Busy | Error:
        """Slots, then money; only a quote holds anything."""
        params, request_id = self._runtime.params, frame.request_id
        served = self._models.get(frame.model)
        if frame.channel != channel.state.channel:
            return Error(
                request_id=request_id, code=WireCode.NOT_AUTHORISED, message="not the channel of this connection"
            )
        if served is None:
            return Error(request_id=request_id, code=WireCode.UNKNOWN_MODEL, message="this model is not served here")
        if len(frame.body) > params.body_bytes_max or not 0 < frame.max_tokens <= params.max_tokens_limit:
            return Error(request_id=request_id, code=WireCode.TOO_LARGE, message="body or max_tokens beyond the limit")
        # A token is a byte at least, so no prompt has more of them than a body may have bytes.
        if len(request_id) != REQUEST_ID_BYTES or not 0 <= frame.prompt_tokens_estimate <= params.body_bytes_max:
            # Neither could ever be on a receipt; a negative estimate would even lower the price.
            return Error(request_id=request_id, code=WireCode.MALFORMED, message="request id or prompt estimate")
        utc_ms = self._runtime.clock.utc_ms()
        admission = self._admission
        verdict = admission.check(
            frame.channel, request_id, deadline_ms=frame.deadline_ms + params.clock_skew_ms_max, utc_ms=utc_ms
        )
        if verdict is SlotVerdict.REPLAYED:
            return Error(request_id=request_id, code=WireCode.REPLAYED, message="this request id was seen before")
        if verdict is SlotVerdict.LATE:
            return Error(request_id=request_id, code=WireCode.DEADLINE, message="the deadline has passed")
        wait_s = admission.expected_wait_s()
        if verdict is SlotVerdict.BUSY:
            retry_s = min(max(wait_s, RETRY_AFTER_S_MIN), RETRY_AFTER_S_MAX)
            return Busy(request_id=request_id, code=WireCode.BUSY, retry_after_s=retry_s)
        quote = compute_quote(
            frame, served.price, slack_tokens=params.completion_tokens_slack, queue_s=wait_s,
            expires_ms=utc_ms + ms_from_s(QUOTE_LIFETIME * params.quote_timeout_s),
        )  # fmt: skip
        if not self._payers.can_carry(channel, quote.amount_max):
            admission.forget(frame.channel, request_id)
            return Busy(request_id=request_id, code=WireCode.CREDIT, retry_after_s=params.acknowledge_interval_s)
        channel.reserve(request_id, quote.amount_max)
        self._jobs[request_id] = Job(
            frame, quote, channel, self._stream, name=served.installed.name, runtime=self._runtime,
            backend=self._backend, slots=self._slots, payers=self._payers, alarms=self._alarms, on_unaccepted=self._close,
        )  # fmt: skip
        return quote

    async def _on_accept(self, nursery: Nursery, frame: Accept) -> None:
        job = self._jobs.get(frame.request_id)
        if job is not None and job.task is not None:
            return
        if job is not None and job.quote.expires_ms >= self._runtime.clock.utc_ms():
            job.task = nursery.start(self._serve(job))
            return
        if job is not None:
            self._close(job)
        await self._stream.send(
            Error(request_id=frame.request_id, code=WireCode.DEADLINE, message="no quote, or it has expired")
        )

    async def _on_cancel(self, frame: Cancel) -> None:
        job = self._jobs.get(frame.request_id)
        if job is None:
            return
        job.stop(Stop.CANCELLED)
        if job.task is None:
            self._close(job)
            await self._stream.send(job.end("cancelled", queue_s=0.0))

    async def _serve(self, job: Job) -> None:
        """What was quoted stays reserved until the last receipt has turned it into a debt."""
        try:
            last = await job.run()
        finally:
            self._close(job)
        try:
            await self._stream.send(last)
        except StreamReset:
            # The reader learns it too, and ends the connection.
            return

    def _close(self, job: Job) -> None:
        """Once a job: it holds a slot's place and a reservation no more."""
        job.close()
        del self._jobs[job.request.request_id]
        job.channel.release(job.request.request_id)
        self._admission.on_end(job.request.channel, job.request.request_id)
