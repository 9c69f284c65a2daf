"""A gateway's connection to one provider: one inference stream for all requests, one stream for acknowledgements.

Rules of this file: it awaits and moves values. The reader never waits for a client, and it is the only one that
advances the channel, so receipts are checked in the order they were signed.
"""

from __future__ import annotations

import asyncio

from quiver import trace
from quiver.errors import PeerError, PeerUnreachable, QuiverError, ReceiptMismatch, StreamReset, WireCode
from quiver.gateway.inbox import RequestInbox
from quiver.gateway.payer import PayerChannel
from quiver.identity import signing
from quiver.ids import Address, PeerId, RequestId
from quiver.ports import Stream
from quiver.receipts.history import Book
from quiver.receipts.log import head_of
from quiver.receipts.signatures import sign_acknowledgement, verify_receipt
from quiver.runtime import Alarms, Nursery, Runtime
from quiver.settlement.channel import session_at
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
from quiver.values.receipt import Acknowledgement, SignedReceipt
from quiver.wire.protocols import ACKS, INFERENCE


class ProviderLink:
    """Use as: `await connect()`, then `run()` as a task for as long as the connection lives."""

    def __init__(self, runtime: Runtime, peer: PeerId, channel: PayerChannel, book: Book | None = None) -> None:
        """`book` is told what was billed and what came for it."""
        self.runtime = runtime
        self.peer = peer
        self.channel = channel
        self.book = book
        self.up = False
        self._inboxes: dict[RequestId, RequestInbox] = {}
        self._cut_off: list[Acknowledgement] = []
        "Signed, and with the disk when whoever waited for it was cancelled: not in the trace yet."
        self._dirty = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._alarms = Alarms(self._loop)
        self._stream: Stream | None = None
        self._acks: Stream | None = None
        self._nursery: Nursery | None = None

    async def connect(self) -> None:
        """Open both streams and agree on where the channel stands."""
        runtime, params = self.runtime, self.runtime.params
        state, ledger = self.channel.state, self.runtime.ledger
        stream = await runtime.transport.open(self.peer, INFERENCE, timeout_s=params.dial_timeout_s)
        try:
            expires_ms = runtime.clock.utc_ms() + round(params.authorise_lifetime_s * 1000)
            digest = signing.authorise_digest(
                ledger.chain_id, ledger.contract, state.channel, runtime.signer.peer_id, self.peer, expires_ms
            )
            session = self._session()
            await self._renew(session)
            authorise = Authorise(
                channel=state.channel, payer=state.payer, session=session, gateway=runtime.signer.peer_id,
                provider=self.peer, expires_ms=expires_ms, signature=await runtime.signer.sign_session(digest, session),
                head=self.channel.log.head, last=self.channel.log.last,
            )  # fmt: skip
            async with runtime.clock.deadline(params.dial_timeout_s):
                await stream.send(authorise)
                answer = await stream.receive()
                if not isinstance(answer, Authorised) or answer.channel != state.channel:
                    raise PeerError("a provider must answer Authorise with Authorised", peer_id=self.peer)
                await self._catch_up(answer)
            self._acks = await runtime.transport.open(self.peer, ACKS, timeout_s=params.dial_timeout_s)
        except BaseException as error:
            stream.reset(WireCode.NONE)
            if isinstance(error, StreamReset) and error.code == WireCode.NONE:
                raise PeerUnreachable("connection to the provider lost before it was agreed on") from error
            raise
        self._stream = stream
        self.up = True

    async def _catch_up(self, answer: Authorised) -> None:
        """Receipts we may have missed, re-sent verbatim. Together at most one first credit: we can't recount their answers."""
        known_cum = self.channel.log.head.cum
        for signed in answer.unacknowledged:
            if signed.body.seq <= self.channel.log.head.seq:
                continue
            if signed.body.cum - known_cum > self.runtime.params.first_credit:
                raise ReceiptMismatch(
                    "re-sent receipts exceed what we risk on answers we can't recount", peer_id=self.peer
                )
            await self._accept_receipt(signed)
        if answer.head != self.channel.log.head:
            raise ReceiptMismatch(
                f"provider is at receipt {answer.head.seq}, we are at {self.channel.log.head.seq}, of one channel",
                peer_id=self.peer,
            )

    async def run(self) -> None:
        """Read frames and acknowledge until the connection ends; then every open request learns it."""
        error: QuiverError = PeerUnreachable("the provider closed the connection")
        try:
            try:
                async with Nursery() as nursery:
                    self._nursery = nursery
                    acks = nursery.start(self._acknowledge_always())
                    if self.channel.unsigned:
                        self._dirty.set()
                    await self._read()
                    acks.cancel()
            except StreamReset as caught:
                error = PeerUnreachable(f"connection to the provider lost ({caught})")
            except PeerError as caught:
                error = caught
                self._record(caught)
            # While this link still has the channel to itself: whatever became of the provider, and of its disk, where the
            # channel stands is then in our signature, and no seq that we took is ever issued a second time.
            await self._sign()
            await self._tell_cut_off()
        finally:
            self.up = False
            self._nursery = None
            for stream in (self._stream, self._acks):
                if stream is not None:
                    stream.reset(WireCode.NONE)
            for request_id, inbox in self._inboxes.items():
                self.channel.release(request_id)
                inbox.fail(error)
            self._inboxes.clear()

    def _record(self, error: PeerError) -> None:
        self.runtime.trace.emit(
            trace.EvidenceRecorded(
                at_s=self.runtime.clock.now(), node=self.runtime.signer.peer_id, peer=self.peer,
                kind=type(error).__name__, detail=str(error),
            )
        )  # fmt: skip

    async def _read(self) -> None:
        assert self._stream is not None
        receive = self._stream.receive
        while (frame := await receive()) is not None:
            if isinstance(frame, ReceiptFrame):
                await self._on_receipt(frame)
                continue
            if not isinstance(frame, (Busy, Chunk, End, Error, Quote)):
                raise PeerError(f"a provider may not send {type(frame).__name__} here", peer_id=self.peer)
            inbox = self._inboxes.get(frame.request_id)
            if inbox is None:
                raise PeerError(f"{type(frame).__name__} for a request that is not open", peer_id=self.peer)
            if isinstance(frame, Chunk):
                if inbox.delivery is None:
                    raise PeerError("a chunk before the quote was accepted", peer_id=self.peer)
                inbox.delivery.on_chunk(frame)
            elif isinstance(frame, (Busy, End, Error)):
                inbox.ended = True
                self.channel.release(frame.request_id)
                del self._inboxes[frame.request_id]
            self._pass_on(inbox, frame)

    def _pass_on(self, inbox: RequestInbox, frame: Busy | Chunk | End | Error | Quote) -> None:
        if not inbox.put(frame):
            self.cancel(frame.request_id, WireCode.SLOW_CLIENT)
            inbox.fail(PeerError("the client does not read", wire_code=WireCode.SLOW_CLIENT))

    async def _on_receipt(self, frame: ReceiptFrame) -> None:
        inbox = self._inboxes.get(frame.request_id)
        if inbox is None or inbox.delivery is None or frame.receipt.body.request_id != frame.request_id:
            raise ReceiptMismatch("a receipt for a request that is not open", peer_id=self.peer)
        inbox.delivery.check(frame.receipt.body)
        await self._accept_receipt(frame.receipt)
        inbox.delivery.on_billed(frame.receipt.body)
        if self.book is not None:
            self.book.on_receipts((frame.receipt,), now_ms=self.runtime.clock.utc_ms())
            self.book.on_delivery(
                self.peer, frame.request_id, size_bytes=inbox.delivery.bytes, chunk_tokens=inbox.delivery.tokens
            )
        inbox.receipt = frame.receipt
        self._dirty.set()

    async def _accept_receipt(self, signed: SignedReceipt) -> None:
        at, digest = self.channel.check_receipt(signed)
        await verify_receipt(self.runtime.verifier, signed, digest)
        self.channel.on_receipt(signed, at)

    # ---- requests

    async def open(self, frame: Open) -> RequestInbox:
        """Send a request; its answers come to the inbox."""
        if self._stream is None or not self.up:
            raise PeerUnreachable("not connected to this provider")
        if frame.request_id in self._inboxes:
            raise PeerError(
                "this request is open at the provider already", peer_id=self.peer, wire_code=WireCode.REPLAYED
            )
        digest = signing.request_hash(frame.request_id, frame.model, frame.max_tokens, frame.body)
        inbox = RequestInbox(
            frames_max=self.runtime.params.chunk_buffer_max, request_hash=digest, loop=self._loop, alarms=self._alarms
        )
        self._inboxes[frame.request_id] = inbox
        try:
            await self.send(frame)
        except asyncio.CancelledError:
            # It waited at the window: the provider never saw the request, so nothing will end it.
            del self._inboxes[frame.request_id]
            raise
        return inbox

    async def accept(self, request_id: RequestId) -> None:
        """Agree to the quote."""
        await self.send(Accept(request_id=request_id))

    async def send(self, frame: InferenceFrame) -> None:
        """To the provider; a lost connection is `PeerUnreachable`."""
        if self._stream is None or not self.up:
            raise PeerUnreachable("connection to the provider lost")
        try:
            await self._stream.send(frame)
        except StreamReset as error:
            raise PeerUnreachable(f"connection to the provider lost ({error})") from error

    def cancel(self, request_id: RequestId, code: int) -> None:
        """Stop a request. Its last receipt is still checked and paid; nobody waits for it."""
        inbox = self._inboxes.get(request_id)
        if inbox is None or inbox.cancelled:
            return
        inbox.cancelled = True
        if self._nursery is not None and self.up:
            self._nursery.start(self._send_cancel(request_id, code))

    async def _send_cancel(self, request_id: RequestId, code: int) -> None:
        try:
            await self.send(Cancel(request_id=request_id, code=code))
        except PeerUnreachable:
            return

    # ---- acknowledgements

    async def _acknowledge_always(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            # One signature covers all receipts of this interval.
            await self.runtime.clock.sleep(self.runtime.params.acknowledge_interval_s)
            await self.acknowledge()

    async def acknowledge(self) -> None:
        """Sign for everything accepted so far: durable here first, then sent."""
        if self._acks is not None and (acknowledgement := await self._sign()) is not None:
            await self._acks.send(AckFrame(acknowledgement=acknowledgement))

    async def _renew(self, session: Address) -> None:
        """After a rotation, what the old key signed for pays no more: the new one signs for it before anything else."""
        channel, runtime = self.channel, self.runtime
        if channel.log.last is not None and session != runtime.signer.session_address:
            acknowledgement = await sign_acknowledgement(
                runtime.signer, channel.log.terms, head_of(channel.log.last), session=session
            )
            if batch := channel.log.on_signed(acknowledgement):
                await runtime.store.commit(batch)

    def _session(self) -> Address:
        """Whose signature counts now: the ledger knows of a rotation that was asked for beside this process."""
        runtime, channel = self.runtime, self.channel
        state = runtime.ledger.channel(channel.state.channel) or channel.state
        return session_at(state, runtime.clock.utc_ms())

    async def _sign(self) -> Acknowledgement | None:
        """The durable signature for everything accepted so far; None when there is nothing new."""
        channel, runtime = self.channel, self.runtime
        if not channel.unsigned:
            return None
        acknowledgement = await sign_acknowledgement(
            runtime.signer, channel.log.terms, channel.log.head, session=self._session()
        )
        batch = channel.log.on_signed(acknowledgement)
        if not batch:
            # Another round signed a newer head meanwhile.
            return None
        try:
            await runtime.store.commit(batch)
        except asyncio.CancelledError:
            self._cut_off.append(acknowledgement)
            raise
        self._tell(acknowledgement)
        return acknowledgement

    async def _tell_cut_off(self) -> None:
        """The store commits in order what it was given, whoever was cancelled: the next link begins where we signed last."""
        if self._cut_off:
            await self.runtime.store.commit([])
            while self._cut_off:
                self._tell(self._cut_off.pop(0))

    def _tell(self, signed: Acknowledgement) -> None:
        runtime = self.runtime
        runtime.trace.emit(
            trace.ReceiptAcknowledged(
                at_s=runtime.clock.now(), node=runtime.signer.peer_id, channel=signed.channel, seq=signed.seq,
                cum=signed.cum,
            )
        )  # fmt: skip
