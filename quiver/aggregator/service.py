"""The aggregator's flows: take receipts, answer for proofs, commit each epoch once (docs/protocol.md, sections 3 and 6).

An answer `Ingested` leaves only after its receipts are durable. A root is durable before it is submitted, and marked after the
ledger has it; a restart finds roots that are durable but not marked and goes on there, so every epoch is committed exactly once.
A store that fails once fails for good (see the conformance suite of `Store`): then nothing is answered until a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from quiver.aggregator.bonding import Bonding
from quiver.aggregator.commitment import EpochTree
from quiver.aggregator.fraud import FraudDesk
from quiver.aggregator.window import Ingest, Window, epoch_key, forget_epoch, load_entries, load_head
from quiver.errors import PeerError, ReceiptMismatch, SettlementError, Unavailable, WireCode
from quiver.identity.peer_id import public_key_of
from quiver.ids import PeerId
from quiver.ports import Stream
from quiver.receipts.checks import ChannelTerms, check_acknowledgement, check_receipts
from quiver.receipts.fraud.detector import Detector
from quiver.receipts.signatures import verify_acknowledgement, verify_receipt
from quiver.runtime import Runtime
from quiver.trace import EpochCommitted, EvidenceRecorded, ReceiptsIngested
from quiver.values.frames import AskProof, Ingested, ProofAnswer, Refused, SubmitReceipts
from quiver.values.ledger import ChannelState, Commitment, SubmitEpoch
from quiver.wire.protocols import RECEIPTS

COMMITMENTS = "aggregator_commitments"
# Trees kept in memory for proof questions; the others are rebuilt from the store.
TREES_MAX = 4
# At one-hour epochs a month; after that a provider can still claim directly.
EPOCHS_RETAINED = 720
# The ledger's clock may lag behind ours, and a chain may be down: ask again this much later.
SUBMIT_RETRY_S = 5.0


class KeptCommitment(msgspec.Struct, frozen=True, kw_only=True):
    """Row of `aggregator_commitments`. `submitted` once the ledger is known to hold it; `lost` if it holds another root."""

    commitment: Commitment
    submitted: bool = False
    lost: bool = False


_ENCODE = msgspec.msgpack.Encoder().encode
_KEPT = msgspec.msgpack.Decoder(KeptCommitment)


class AggregatorService:
    """Serves `/quiver/receipts/1.0.0` from construction on; `run` closes epochs until it is cancelled."""

    def __init__(self, runtime: Runtime, *, detectors: Iterable[Detector] | None = None) -> None:
        """`detectors` look for fraud; None takes all there are."""
        self._runtime = runtime
        self._window = Window.load(runtime.store, runtime.params)
        self.bonding = Bonding(runtime)
        self._trees: OrderedDict[int, EpochTree] = OrderedDict()
        self.fraud = FraudDesk(runtime, detectors)
        "Looks at what was accepted; `run` it beside the service."
        runtime.transport.serve(RECEIPTS, self.serve)

    @property
    def window(self) -> Window:
        """What is known now, durable or about to be."""
        return self._window

    async def serve(self, stream: Stream) -> None:
        """One provider's stream: each question gets its answer, in order."""
        while (frame := await stream.receive()) is not None:
            if isinstance(frame, SubmitReceipts):
                await stream.send(await self._answer_submission(stream.peer_id, frame))
            elif isinstance(frame, AskProof):
                await stream.send(self.answer_proof(frame))
            else:
                kind = type(frame).__name__
                raise PeerError(f"{kind} is not a question to an aggregator", peer_id=stream.peer_id)
        stream.finish()

    async def _answer_submission(self, peer: PeerId, frame: SubmitReceipts) -> Ingested | Refused:
        try:
            done = await self._ingest(peer, frame)
        except PeerError as error:
            self._record_evidence(peer, error)
            self.fraud.on_refused(peer, error)
            return Refused(batch_id=frame.batch_id, code=int(error.wire_code), message=str(error))
        except Unavailable as error:
            return Refused(batch_id=frame.batch_id, code=int(WireCode.RESOURCE_LIMIT), message=str(error))
        return Ingested(batch_id=frame.batch_id, epoch=done.epoch, accepted=done.accepted, duplicates=done.duplicates)

    async def _ingest(self, peer: PeerId, frame: SubmitReceipts) -> Ingest:
        runtime = self._runtime
        state = self._known_channel(frame)
        heads = check_receipts(frame.receipts, frame.previous, self._terms(state, peer))
        check_acknowledgement(frame.acknowledgement, heads[-1], state.channel)
        await verify_acknowledgement(
            runtime.verifier, frame.acknowledgement,
            chain_id=runtime.ledger.chain_id, contract=runtime.ledger.contract, session=state.session,
        )  # fmt: skip
        for receipt in frame.receipts:
            await verify_receipt(runtime.verifier, receipt)
        done = self._window.ingest(
            state, frame.previous, frame.receipts, heads, frame.acknowledgement, utc_ms=runtime.clock.utc_ms(),
            head_at=lambda epoch, channel, seq: load_head(runtime.store, epoch, channel, seq),
        )  # fmt: skip
        await runtime.store.commit(done.batch)
        if done.accepted:
            self.fraud.on_receipts(frame.receipts[done.duplicates :])
            runtime.trace.emit(
                ReceiptsIngested(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, channel=state.channel,
                    epoch=done.epoch, accepted=done.accepted, cum=done.cum,
                )
            )  # fmt: skip
        return done

    def _known_channel(self, frame: SubmitReceipts) -> ChannelState:
        state = self._runtime.ledger.channel(frame.acknowledgement.channel)
        if state is None:
            raise ReceiptMismatch("unknown_channel: the ledger has no such channel")
        return state

    def _terms(self, state: ChannelState, peer: PeerId) -> ChannelTerms:
        ledger = self._runtime.ledger
        return ChannelTerms(
            chain_id=ledger.chain_id, contract=ledger.contract, channel=state.channel,
            provider_key=public_key_of(peer), payer=state.payer,
        )  # fmt: skip

    def _record_evidence(self, peer: PeerId, error: PeerError) -> None:
        runtime = self._runtime
        kind = str(error).partition(":")[0]
        runtime.trace.emit(
            EvidenceRecorded(
                at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=peer, kind=kind, detail=str(error)
            )
        )

    def answer_proof(self, question: AskProof) -> ProofAnswer:
        """Leaf, proof and acknowledgement of a channel in a closed epoch whose root the ledger holds, or will."""
        row = self._runtime.store.get(COMMITMENTS, epoch_key(question.epoch)) if question.epoch >= 0 else None
        kept = None if row is None else _KEPT.decode(row)
        found = None
        if kept is not None and not kept.lost:
            found = self._tree(question.epoch).find(question.channel)
        if kept is None or found is None:
            return ProofAnswer(
                epoch=question.epoch,
                channel=question.channel,
                commitment=None,
                leaf=None,
                proof=None,
                acknowledgement=None,
            )
        entry, proof = found
        return ProofAnswer(
            epoch=question.epoch, channel=question.channel, commitment=kept.commitment, leaf=entry.leaf, proof=proof,
            acknowledgement=entry.acknowledgement,
        )  # fmt: skip

    def _tree(self, epoch: int) -> EpochTree:
        tree = self._trees.get(epoch)
        if tree is None:
            tree = self._trees[epoch] = EpochTree(epoch, load_entries(self._runtime.store, epoch))
            if len(self._trees) > TREES_MAX:
                self._trees.popitem(last=False)
        else:
            self._trees.move_to_end(epoch)
        return tree

    async def run(self) -> None:
        """Close every epoch after its end, for ever; after a restart first finish what was begun."""
        clock, epoch_ms = self._runtime.clock, self._runtime.params.epoch_ms
        await self.bonding.ensure()
        while True:
            await self.close_due_epochs()
            await clock.sleep((epoch_ms - clock.utc_ms() % epoch_ms) / 1000)

    async def close_due_epochs(self) -> None:
        """Commit every epoch that is over, oldest first, and return once the ledger holds them."""
        for epoch in self._window.due_epochs(self._runtime.clock.utc_ms()):
            await self._close(epoch)
        pending = [_KEPT.decode(row) for _, row in self._runtime.store.scan(COMMITMENTS)]
        for kept in pending:
            if not kept.submitted and not kept.lost:
                await self._submit(kept)

    async def _close(self, epoch: int) -> None:
        # Batches of this epoch that are still on their way to the disk get there before this one: a store keeps their order.
        tree = EpochTree(epoch, self._window.entries(epoch))
        kept = KeptCommitment(commitment=tree.commitment)
        batch = [*self._window.close(epoch), (COMMITMENTS, epoch_key(epoch), _ENCODE(kept))]
        if (old := epoch - EPOCHS_RETAINED) >= 0:
            batch += [*forget_epoch(self._runtime.store, old), (COMMITMENTS, epoch_key(old), None)]
        await self._runtime.store.commit(batch)

    async def _submit(self, kept: KeptCommitment) -> None:
        runtime, commitment = self._runtime, kept.commitment
        transaction = SubmitEpoch(sender=runtime.signer.account, commitment=commitment)
        while (held := runtime.ledger.epoch(commitment.epoch)) is None:
            try:
                # The bond may have been slashed since the last root.
                if await self.bonding.ensure():
                    await runtime.ledger.submit(transaction)
                    continue
            except (SettlementError, Unavailable):
                pass
            if runtime.ledger.epoch(commitment.epoch) is None:
                await runtime.clock.sleep(SUBMIT_RETRY_S)
        lost = held.commitment != commitment
        done = msgspec.structs.replace(kept, submitted=not lost, lost=lost)
        await runtime.store.commit([(COMMITMENTS, epoch_key(commitment.epoch), _ENCODE(done))])
        at_s, node = runtime.clock.now(), runtime.signer.peer_id
        if lost:
            detail = f"epoch_taken: the ledger holds another root for epoch {commitment.epoch}"
            runtime.trace.emit(EvidenceRecorded(at_s=at_s, node=node, peer=node, kind="epoch_taken", detail=detail))
        else:
            runtime.trace.emit(
                EpochCommitted(
                    at_s=at_s, node=node, epoch=commitment.epoch, root=commitment.root, count=commitment.count
                )
            )
