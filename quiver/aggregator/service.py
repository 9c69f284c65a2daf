"""The aggregator's flows: take receipts, give its word for them, answer questions (docs/protocol.md, sections 3 and 6).

An answer `Ingested` leaves only after its receipts are durable, and so does the promise in it. What becomes of an epoch is in
`closing`, what is answered in `answers`, what happens to accusations in `defence`.
A store that fails once fails for good (see the conformance suite of `Store`): then nothing is answered until a restart.
"""

from __future__ import annotations

from collections.abc import Iterable

from quiver.aggregator.answers import QUESTIONS, Answers, Question
from quiver.aggregator.archive import Archive
from quiver.aggregator.bonding import Bonding
from quiver.aggregator.budget import Budget
from quiver.aggregator.closing import Closing
from quiver.aggregator.committer import CommitterClosing
from quiver.aggregator.defence import Defence
from quiver.aggregator.fraud import FraudDesk
from quiver.aggregator.shard import ShardClosing
from quiver.aggregator.shards import Shards
from quiver.aggregator.usage import Usage
from quiver.aggregator.window import Ingest, Window, load_head
from quiver.errors import PeerError, ReceiptMismatch, Unavailable, WireCode
from quiver.identity.peer_id import peer_id_text, public_key_of
from quiver.ids import PeerId
from quiver.ports import Signer, Stream
from quiver.receipts.checks import ChannelTerms, check_acknowledgement, check_receipts
from quiver.receipts.fraud.detector import Detector
from quiver.receipts.promises import sign_promise
from quiver.receipts.signatures import verify_submission
from quiver.runtime import Nursery, Runtime
from quiver.settlement.channel import sessions_of
from quiver.trace import EvidenceRecorded, ReceiptsIngested
from quiver.values.frames import Ingested, Refused, SubmitReceipts
from quiver.values.ledger import ChannelState
from quiver.wire.protocols import RECEIPTS


class AggregatorService:
    """Serves `/quiver/receipts/1.0.0` from construction on; `run` closes epochs until it is cancelled."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        detectors: Iterable[Detector] | None = None,
        shards: Shards | None = None,
        poster: Signer | None = None,
    ) -> None:
        """`detectors` look for fraud; None takes all there are.

        `shards`: this node is their committer or one of them, by its peer id. A shard promises with the key of `poster`, whose
        bond stands behind the committer's roots.
        """
        self._runtime = runtime
        self._window = Window.load(runtime.store, runtime.params)
        self.usage = Usage(runtime.store, self._window.next_open)
        self._shards = shards
        self._number = None if shards is None else shards.number_of(runtime.signer.peer_id)
        self.bonding = Bonding(runtime, poster)
        self._budget = Budget()
        archive = Archive(runtime.store)
        self.closing = self._make_closing(archive)
        self.answers = Answers(runtime, self._window, archive, self.closing)
        self.defence = Defence(runtime, archive)
        self.fraud = FraudDesk(runtime, detectors)
        "Looks at what was accepted; `run` it beside the service."
        runtime.transport.serve(RECEIPTS, self.serve)

    def _make_closing(self, archive: Archive) -> Closing:
        given = (self._runtime, self._window, archive, self.bonding)
        if self._shards is None:
            return Closing(*given)
        return (CommitterClosing if self._number is None else ShardClosing)(*given, self._shards)

    @property
    def window(self) -> Window:
        """What is known now, durable or about to be."""
        return self._window

    async def serve(self, stream: Stream) -> None:
        """One provider's stream: each question gets its answer, in order."""
        while (frame := await stream.receive()) is not None:
            if isinstance(frame, SubmitReceipts):
                await stream.send(await self._answer_submission(stream.peer_id, frame))
            elif isinstance(frame, QUESTIONS):
                await self._wait_for_turn(stream.peer_id, frame)
                await stream.send(self.answers.answer(stream.peer_id, frame))
            else:
                kind = type(frame).__name__
                raise PeerError(f"{kind} is not a question to an aggregator", peer_id=stream.peer_id)
        stream.finish()

    async def _wait_for_turn(self, peer: PeerId, question: Question) -> None:
        known = self._window.knows(public_key_of(peer)) or (self._shards is not None and self._shards.has(peer))
        price, clock = self.answers.price(question), self._runtime.clock
        if wait_s := self._budget.take(peer, price, known=known, now=clock.now()):
            await clock.sleep(wait_s)

    async def _answer_submission(self, peer: PeerId, frame: SubmitReceipts) -> Ingested | Refused:
        try:
            return await self.submit(public_key_of(peer), frame)
        except PeerError as error:
            self._record_evidence(peer, error)
            self.fraud.on_refused(peer, error)
            return Refused(batch_id=frame.batch_id, code=int(error.wire_code), message=str(error))
        except Unavailable as error:
            return Refused(batch_id=frame.batch_id, code=int(WireCode.RESOURCE_LIMIT), message=str(error))

    async def submit(self, provider_key: bytes, frame: SubmitReceipts) -> Ingested:
        """Take a batch whose receipts are signed by `provider_key`, whoever brought it; durable on return.

        `PeerError` names what is wrong with it, `Unavailable` says that it may come again. Nothing is held against anybody here:
        only an authenticated stream shows who sent a bad batch.
        """
        done = await self._ingest(provider_key, frame)
        runtime, promise = self._runtime, None
        if self.bonding.is_binding:
            promise = await sign_promise(
                self.bonding.poster, runtime.ledger,
                epoch=done.epoch, channel=frame.acknowledgement.channel, head=done.head,
            )  # fmt: skip
        return Ingested(
            batch_id=frame.batch_id, epoch=done.epoch, accepted=done.accepted, duplicates=done.duplicates, promise=promise
        )  # fmt: skip

    async def _ingest(self, provider_key: bytes, frame: SubmitReceipts) -> Ingest:
        runtime = self._runtime
        state = self._known_channel(frame)
        self._check_owner(state)
        heads, digests = check_receipts(frame.receipts, frame.previous, self._terms(state, provider_key))
        check_acknowledgement(frame.acknowledgement, heads[-1], state.channel)
        # Signed before a rotation or after it: either key answers for a leaf.
        await verify_submission(
            runtime.verifier, frame.receipts, digests, frame.acknowledgement, sessions_of(state),
            chain_id=runtime.ledger.chain_id, contract=runtime.ledger.contract,
        )  # fmt: skip
        done = self._window.ingest(
            state, frame.previous, frame.receipts, heads, frame.acknowledgement, utc_ms=runtime.clock.utc_ms(),
            head_at=lambda epoch, channel, seq: load_head(runtime.store, epoch, channel, seq),
        )  # fmt: skip
        rows = self.usage.add(
            done.epoch, state.provider, frame.receipts[done.duplicates :], first_open=self._window.next_open
        )
        await runtime.store.commit([*done.batch, *rows])
        if done.accepted:
            self.fraud.on_receipts(frame.receipts[done.duplicates :])
            runtime.trace.emit(
                ReceiptsIngested(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, channel=state.channel,
                    epoch=done.epoch, accepted=done.accepted, cum=done.head.cum,
                )
            )  # fmt: skip
        return done

    def _known_channel(self, frame: SubmitReceipts) -> ChannelState:
        state = self._runtime.ledger.channel(frame.acknowledgement.channel)
        if state is None:
            raise ReceiptMismatch("unknown_channel: the ledger has no such channel")
        return state

    def _check_owner(self, state: ChannelState) -> None:
        """Nobody's fault: a provider with an older list of shards asks the wrong one."""
        if self._shards is not None and self._shards.peer_of(state.provider) != self._runtime.signer.peer_id:
            owner = peer_id_text(self._shards.peer_of(state.provider))
            raise Unavailable(f"wrong_shard: receipts for account 0x{state.provider.hex()} go to {owner}")

    def _terms(self, state: ChannelState, provider_key: bytes) -> ChannelTerms:
        ledger = self._runtime.ledger
        return ChannelTerms(
            chain_id=ledger.chain_id, contract=ledger.contract, channel=state.channel,
            provider_key=provider_key, payer=state.payer,
        )  # fmt: skip

    def _record_evidence(self, peer: PeerId, error: PeerError) -> None:
        runtime = self._runtime
        kind = str(error).partition(":")[0]
        runtime.trace.emit(
            EvidenceRecorded(
                at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=peer, kind=kind, detail=str(error)
            )
        )

    async def run(self) -> None:
        """Close every epoch after its end and answer for its root, for ever."""
        async with Nursery() as nursery:
            nursery.start(self.closing.run())
            if self._number is None:
                nursery.start(self.defence.run())

    async def close_due_epochs(self) -> None:
        """Commit every epoch that is over, and return once the ledger holds them."""
        await self.closing.close_due_epochs()
