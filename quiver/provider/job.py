"""One request from Open to End: a slot, the engine's pieces, receipts before they are owed.

Rules of this file: whatever ends a request (the payer's Cancel, its deadline, a lost connection) interrupts the wait for a slot,
for the engine or for the payer's window, never a receipt: what was sent is billed, and stays reserved until it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto

from quiver.errors import RequestRejected, StreamReset, Unavailable, WireCode
from quiver.identity import signing
from quiver.ports import InferenceBackend, Stream
from quiver.provider.channel import ProviderChannel
from quiver.provider.metering import Meter
from quiver.provider.payers import Payers
from quiver.provider.slots import SlotQueue
from quiver.runtime import Alarms, Runtime
from quiver.values.backend import BackendRequest
from quiver.values.frames import Chunk, End, Error, InferenceFrame, Open, Quote, ReceiptFrame

# A quote holds for this many quote timeouts: the payer waits for one, and its Accept travels for less than another.
QUOTE_LIFETIME = 2


class Stop(Enum):
    """Why a request ended before its answer did."""

    CANCELLED = auto()
    DEADLINE = auto()
    DISCONNECTED = auto()


class Job:
    """Made with the quote; `run` once it is accepted."""

    __slots__ = ("request", "quote", "channel", "task", "_stream", "_name", "_runtime", "_backend", "_slots", "_payers",
                 "_alarms", "_on_unaccepted", "_meter", "_stop", "_interruptible", "_accepted_s")  # fmt: skip

    def __init__(
        self, request: Open, quote: Quote, channel: ProviderChannel, stream: Stream, *, name: str, runtime: Runtime,
        backend: InferenceBackend, slots: SlotQueue, payers: Payers, alarms: Alarms,
        on_unaccepted: Callable[[Job], None],
    ) -> None:  # fmt: skip
        """`on_unaccepted` is called when the quote has expired and nobody has accepted it."""
        self.request = request
        self.quote = quote
        self.channel = channel
        self.task: asyncio.Task[None] | None = None
        "Set once the quote is accepted."
        self._stream = stream
        self._name = name
        self._runtime = runtime
        self._backend = backend
        self._slots = slots
        self._payers = payers
        self._on_unaccepted = on_unaccepted
        self._alarms = alarms
        alarms.set(self, QUOTE_LIFETIME * runtime.params.quote_timeout_s)
        digest = signing.request_hash(request.request_id, request.model, request.max_tokens, request.body)
        self._meter = Meter(quote, digest, runtime.params)
        self._stop: Stop | None = None
        self._interruptible = False
        self._accepted_s = 0.0

    def stop(self, why: Stop) -> None:
        """No more pieces. The first reason counts; too late once the answer is complete."""
        if self._stop is None:
            self._stop = why
            if self._interruptible and self.task is not None:
                self.task.cancel()

    async def run(self) -> InferenceFrame:
        """Answer and bill; returns the last frame, to be sent once the reservation is released."""
        runtime = self._runtime
        self._accepted_s = runtime.clock.now()
        # The payer's deadline, but no payer holds a slot for longer than this network allows.
        remaining_s = (self.request.deadline_ms - runtime.clock.utc_ms()) / 1000
        self._alarms.set(self, min(remaining_s, runtime.params.request_timeout_s))
        last = await self._answer()
        if not self._meter.prompt_tokens:
            # Engines that count the prompt with their last piece never told: the payer's own estimate, or prefill would be free.
            self._meter.set_prompt(self.request.prompt_tokens_estimate)
        await self._bill()
        return last

    def on_alarm(self) -> None:
        """Its quote has expired, or its time is over."""
        if self.task is None:
            self._on_unaccepted(self)
        else:
            self.stop(Stop.DEADLINE)

    def close(self) -> None:
        """Nothing happens to it any more."""
        self._alarms.cancel(self)

    async def _answer(self) -> End | Error:
        """Wait for a slot and stream pieces; returns what the payer is told after the last receipt."""
        clock = self._runtime.clock
        started_s = None
        try:
            if self._stop is None:
                await self._slot()
                started_s = clock.now()
                reason = await self._stream_pieces()
                if reason is not None:
                    return self.end(reason, queue_s=started_s - self._accepted_s)
        except asyncio.CancelledError:
            task = self.task
            if self._stop is None or task is None or task.cancelling() != 1:
                raise
            # Ours, from `stop`: this task lives on for the last receipt.
            task.uncancel()
        except StreamReset:
            self._stop = Stop.DISCONNECTED
        except Unavailable as error:
            return self._error(WireCode.BACKEND_FAILED, str(error), error.retry_after_s)
        except RequestRejected as error:
            return self._error(WireCode.MALFORMED, str(error))
        finally:
            ended_s = clock.now()
            if started_s is not None:
                self._slots.give_back(ended_s - started_s)
        if self._stop is Stop.DEADLINE:
            return self._error(WireCode.DEADLINE, "not finished before the deadline")
        return self.end("cancelled", queue_s=(ended_s if started_s is None else started_s) - self._accepted_s)

    async def _slot(self) -> None:
        if not self._slots.take():
            self._interruptible = True
            try:
                await self._slots.wait()
            finally:
                self._interruptible = False

    async def _stream_pieces(self) -> str | None:
        """Returns the engine's reason for its end; None if the job was stopped at a receipt."""
        request, meter, stream = self.request, self._meter, self._stream
        every = self._runtime.params.receipt_every_tokens
        pieces = self._backend.generate(
            BackendRequest(
                request_id=request.request_id, name=self._name, model=request.model, dialect=request.dialect,
                body=request.body, max_tokens=request.max_tokens, prompt_tokens_estimate=request.prompt_tokens_estimate,
                seed=request.seed,
            )
        )  # fmt: skip
        try:
            while self._stop is None:
                self._interruptible = True
                piece = await anext(pieces)
                if piece.text:
                    data = piece.text.encode()
                    tokens = meter.countable(len(data), piece.tokens)
                    await stream.send(
                        Chunk(request_id=request.request_id, index=meter.chunks, tokens=tokens, text=piece.text)
                    )
                    # Only now: a send that is interrupted has sent nothing, and nothing is owed for it.
                    meter.on_chunk(data, tokens, piece.prompt_tokens)
                self._interruptible = False
                if piece.done_reason is not None:
                    meter.set_prompt(piece.prompt_tokens)
                    if piece.completion_tokens is not None:
                        meter.set_completion(piece.completion_tokens)
                    return piece.done_reason
                if meter.unbilled_tokens >= every:
                    await self._bill()
        except StopAsyncIteration:
            raise Unavailable("the engine's answer was cut off") from None
        finally:
            self._interruptible = False
            await pieces.aclose()  # type: ignore[attr-defined]
        return None

    def end(self, reason: str, *, queue_s: float) -> End:
        """The last frame of an answer."""
        meter = self._meter
        return End(
            request_id=self.request.request_id, done_reason=reason, prompt_tokens=meter.prompt_tokens,
            completion_tokens=meter.completion_tokens, chunks=meter.chunks, queue_s=queue_s,
        )  # fmt: skip

    def _error(self, code: WireCode, message: str, retry_after_s: float | None = None) -> Error:
        return Error(request_id=self.request.request_id, code=code, message=message, retry_after_s=retry_after_s)

    async def _bill(self) -> None:
        """Sign for what is new, one receipt at a time per channel, so seq and cum never fork: durable first, then sent."""
        meter, channel = self._meter, self.channel
        if meter.is_settled:
            return
        async with channel.issuing:
            signed = await self._payers.issue(channel, self.request, meter)
            try:
                await self._stream.send(ReceiptFrame(request_id=self.request.request_id, receipt=signed))
            except StreamReset:
                # The payer left. It is told of this receipt when it comes back, before anything else.
                self._stop = Stop.DISCONNECTED
