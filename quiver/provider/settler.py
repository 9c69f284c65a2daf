"""How a provider gets its money: receipts to the aggregator, then claims with proofs, directly where the payer leaves.

Rules of this file: it awaits and moves values; what is worth claiming is decided in `settlement/claims`, what is answered or accused
in `watch`. What one channel or the aggregator does wrong costs a round, never another channel's claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from quiver.errors import PeerError, QuiverError, ReceiptMismatch, SettlementError, WireCode
from quiver.ids import Address, ChannelId, PeerId
from quiver.ports import Stream
from quiver.provider.channel import ProviderChannel
from quiver.provider.due import DueSince
from quiver.provider.leaves import KeptLeaf, Leaves, check_answer
from quiver.provider.restore import load_known, restore
from quiver.provider.watch import Asked
from quiver.provider.watcher import Watcher
from quiver.receipts.signatures import find_signer
from quiver.runtime import Nursery, Runtime
from quiver.settlement.accounts import NOBODY
from quiver.settlement.channel import sessions_of
from quiver.settlement.claims import (
    Claimable,
    ClaimPolicy,
    PlannedClaim,
    make_transaction,
    make_transactions,
    plan_claims,
)
from quiver.values.frames import AskProof, Ingested, ProofAnswer, Refused, SubmitReceipts
from quiver.values.ledger import ChannelState, Leaf, Proof, SignedCommitment
from quiver.values.receipt import Acknowledgement
from quiver.wire.protocols import RECEIPTS

Proofs = dict[ChannelId, tuple[Leaf, Proof]]
CLAIM_OF = "claim of "


class Settler:
    """Shares the service's channels. Call `run` as a task."""

    def __init__(
        self,
        runtime: Runtime,
        channels: dict[ChannelId, ProviderChannel],
        aggregator: PeerId,
        *,
        poster: Address,
        policy: ClaimPolicy | None = None,
        payout: Address | None = None,
    ) -> None:
        """`poster` is the account that posts roots, whose bond answers for the aggregator's promises.

        `payout` is the account channels pay; None: the node's own.
        """
        self.runtime = runtime
        self.channels = channels
        self.aggregator = aggregator
        self.policy = policy or ClaimPolicy()
        self.refusals = 0
        "Batches the aggregator refused; each is in the trace of the aggregator by name."
        self.gas_price_wei = 0
        "What gas costs now; set by whoever knows the chain."
        self.leaves = Leaves.load(runtime.store)
        self.watcher = Watcher(runtime, channels, self.leaves, aggregator=aggregator, poster=poster)
        self._payout = payout or runtime.signer.account
        self._due = DueSince.load(runtime.store)
        self._batch_id = 0
        # A round asked for from outside may meet one of `run`: both would submit and forget the same epochs.
        self._collecting, self._claiming = asyncio.Lock(), asyncio.Lock()
        self._known = self._restored = False

    @property
    def health(self) -> str | None:
        """None when well, otherwise what an operator has to look after."""
        return self.watcher.concerns.health

    async def run(self) -> None:
        """Collect and claim every `receipts_interval_s`, each node at its own phase.

        Beside each other: an aggregator that answers slowly, or never, holds up no claim on a channel whose payer leaves.
        """
        interval_s = self.runtime.params.receipts_interval_s
        await self.runtime.clock.sleep(self.runtime.rng.random() * interval_s)
        async with Nursery() as nursery:
            nursery.start(self.watcher.concerns.run())
            nursery.start(self._always(self.collect, interval_s))
            await self.runtime.clock.sleep(interval_s / 2)
            nursery.start(self._always(self.claim, interval_s))

    async def _always(self, work: Callable[[], Awaitable[None]], interval_s: float) -> None:
        while True:
            await work()
            await self.runtime.clock.sleep(interval_s)

    async def settle(self) -> None:
        """One round of both."""
        await self.collect()
        await self.claim()

    async def collect(self) -> None:
        """Hand in receipts and fetch proofs. An aggregator that is away costs a round, never a receipt."""
        async with self._collecting:
            self._load()
            if not self._restored:
                self._restored = await restore(self.runtime, self.channels, self.aggregator, payout=self._payout)
            try:
                if self._has_work():
                    await self._exchange()
            except QuiverError:
                # Receipts stay in the log until they are ingested; the next round tries again.
                for channel_id, epoch in self._provable():
                    self.watcher.on_asked(channel_id, epoch, Asked.SILENT)

    async def claim(self) -> None:
        """Claim what the policy says, and look after what is contested."""
        async with self._claiming:
            try:
                self._load()
                await self._claim()
                await self.watcher.look()
                self.watcher.concerns.clear("ledger")
            except QuiverError as error:
                self.watcher.concerns.warn(
                    "ledger",
                    f"the ledger or the store is away: {error}",
                    "look after it; until then no exit is watched",
                )

    def _load(self) -> None:
        """Once a life: the channels of lives before this one."""
        if not self._known:
            load_known(self.runtime, self.channels, payout=self._payout)
            self._known = True

    def _has_work(self) -> bool:
        """Receipts to hand in, or a posted root to ask a proof of; an open epoch can prove nothing yet."""
        session = self.runtime.signer.session_address
        return bool(self._provable()) or any(
            channel.log.next_submission(0, session) is not None for channel in self.channels.values()
        )

    def _provable(self) -> list[tuple[ChannelId, int]]:
        """(channel, epoch) without a proof whose root is posted: no other proof could be checked."""
        ledger = self.runtime.ledger
        current = self.runtime.clock.utc_ms() // self.runtime.params.epoch_ms
        return [pair for pair in self.leaves.waiting(current) if ledger.epoch(pair[1]) is not None]

    async def _exchange(self) -> None:
        runtime, params = self.runtime, self.runtime.params
        stream = await runtime.transport.open(self.aggregator, RECEIPTS, timeout_s=params.dial_timeout_s)
        try:
            for channel_id in sorted(self.channels):
                async with runtime.clock.deadline(params.request_timeout_s):
                    await self._submit(stream, self.channels[channel_id])
            for channel_id, epoch in self._provable():
                async with runtime.clock.deadline(params.request_timeout_s):
                    await self._ask_proof(stream, channel_id, epoch)
            stream.finish()
        except BaseException:
            stream.reset(0)
            raise

    async def _submit(self, stream: Stream, channel: ProviderChannel) -> None:
        while True:
            self._batch_id += 1
            batch = channel.log.next_submission(self._batch_id, channel.state.session)
            if batch is None:
                return
            await stream.send(batch)
            answer = await stream.receive()
            if isinstance(answer, Refused) and answer.batch_id == batch.batch_id:
                self.refusals += 1
                if answer.code == WireCode.RECEIPT_MISMATCH and answer.message.startswith("gap"):
                    # Receipts before this batch went with our disk: it will never be taken, and is claimed directly.
                    await self.runtime.store.commit(channel.log.on_unsubmittable(batch))
                return
            if not isinstance(answer, Ingested) or answer.batch_id != batch.batch_id:
                raise PeerError("an aggregator must answer a batch with Ingested or Refused", peer_id=self.aggregator)
            await self._on_ingested(channel, batch, answer)

    async def _on_ingested(self, channel: ProviderChannel, batch: SubmitReceipts, answer: Ingested) -> None:
        channel_id = channel.state.channel
        rows = [*channel.log.on_ingested(batch), *self.leaves.on_ingested(channel_id, answer.epoch)]
        if answer.promise is not None:
            rows += await self.watcher.on_promise(answer.promise, batch.acknowledgement, answer.epoch)
        await self.runtime.store.commit(rows)

    async def _ask_proof(self, stream: Stream, channel_id: ChannelId, epoch: int) -> None:
        posted = self.runtime.ledger.epoch(epoch)
        assert posted is not None
        await stream.send(AskProof(epoch=epoch, channel=channel_id))
        answer = await stream.receive()
        if not isinstance(answer, ProofAnswer) or answer.channel != channel_id:
            raise PeerError("an aggregator must answer AskProof with ProofAnswer", peer_id=self.aggregator)
        if answer.commitment is not None:
            self.watcher.on_commitment(SignedCommitment(commitment=answer.commitment, signature=answer.signature))
        try:
            kept = check_answer(answer, channel_id, epoch, posted.commitment)
            if await self._signer(self.channels[channel_id].state, kept.acknowledgement) == NOBODY:
                raise ReceiptMismatch("proof_other: the leaf's acknowledgement is by no key of its channel")
        except ReceiptMismatch:
            self.watcher.on_asked(channel_id, epoch, Asked.REFUSED)
            if not self._is_wanted(channel_id, epoch):
                await self.runtime.store.commit(self.leaves.forget(channel_id, epoch))
            return
        await self.runtime.store.commit(self.leaves.on_proof(kept))

    def _is_wanted(self, channel_id: ChannelId, epoch: int) -> bool:
        """A leaf nobody can show is asked for again while it was promised, or no newer one makes it worthless."""
        newest = self.leaves.newest(channel_id)
        docket = self.watcher.docket
        promises = (*docket.promises, *docket.unchecked)
        is_promised = any((held.channel, held.epoch) == (channel_id, epoch) for held in promises)
        return is_promised or newest is None or newest.leaf.epoch < epoch

    async def _signer(self, state: ChannelState, ack: Acknowledgement) -> Address:
        """Which of the channel's keys signed; `NOBODY`, whose key nobody has, if none did."""
        ledger = self.runtime.ledger
        signer = await find_signer(
            self.runtime.verifier, ack, sessions_of(state), chain_id=ledger.chain_id, contract=ledger.contract
        )
        return signer or NOBODY

    # ---- claims

    async def _claim(self) -> None:
        candidates, proofs = await self._claimables()
        now_ms = self.runtime.clock.utc_ms()
        planned = plan_claims(candidates, policy=self.policy, now_ms=now_ms, gas_price_wei=self.gas_price_wei)
        self._clear_over(planned)
        for transaction, group in make_transactions(planned, proofs, self.runtime.signer.account):
            try:
                await self.runtime.ledger.submit(transaction)
            except SettlementError as error:
                # One by one, so that whatever is wrong with one channel stays with it.
                for claim in group if len(group) > 1 else ():
                    error = await self._claim_alone(claim, proofs) or error
                self._warn_of(group, error)
                continue
            for claim in group:
                self.watcher.concerns.clear(_subject(claim))

    def _clear_over(self, planned: Iterable[PlannedClaim]) -> None:
        """What somebody else claimed, or what is lost since its channel is closed, needs nobody's care."""
        concerns, due = self.watcher.concerns, {_subject(claim) for claim in planned}
        for subject in [one for one in concerns.by_subject if one.startswith(CLAIM_OF) and one not in due]:
            concerns.clear(subject)

    async def _claim_alone(self, claim: PlannedClaim, proofs: Proofs) -> SettlementError | None:
        try:
            await self.runtime.ledger.submit(make_transaction(claim, proofs, self.runtime.signer.account))
        except SettlementError as error:
            return error
        return None

    def _warn_of(self, group: tuple[PlannedClaim, ...], error: SettlementError) -> None:
        """Money that is lost after a certain time could not be claimed; what may wait is planned again next round."""
        for claim in group:
            state = self.runtime.ledger.channel(claim.acknowledgement.channel)
            if claim.urgent and state is not None and state.paid < min(claim.acknowledgement.cum, state.locked):
                self.watcher.concerns.warn(
                    _subject(claim),
                    f"{claim.due} credits of channel {claim.acknowledgement.channel.hex()} are lost after utc_ms "
                    f"{claim.last_ms}, and the claim was refused: {error}",
                    "see to what the ledger names; each round tries again, `settle claim` does at once",
                )

    async def _claimables(self) -> tuple[list[Claimable], Proofs]:
        candidates: list[Claimable] = []
        proofs: Proofs = {}
        rows: list[tuple[str, bytes, bytes | None]] = []
        now_ms = self.runtime.clock.utc_ms()
        for channel_id in sorted(self.channels):
            channel = self.channels[channel_id]
            state = self.runtime.ledger.channel(channel_id)
            if state is None or channel.log.last is None:
                continue
            channel.state = state
            kept = self.leaves.newest(channel_id)
            if kept is not None:
                proofs[channel_id] = (kept.leaf, kept.proof)
            rows += self._due.on_seen(state, channel.log.last, now_ms)
            candidates.append(await self._claimable(state, channel.log.last, kept))
        if rows:
            await self.runtime.store.commit(rows)
        return candidates, proofs

    async def _claimable(self, state: ChannelState, last: Acknowledgement, kept: KeptLeaf | None) -> Claimable:
        committed = kept.acknowledgement if kept is not None else None
        # Every acknowledgement was verified when it came; who signed it matters only once a key was changed.
        rotated = state.next_session is not None and not state.closed
        return Claimable(
            state=state, acknowledgement=last, committed=committed, since_ms=self._due.since_ms(state.channel),
            signed_by=await self._signer(state, last) if rotated else None,
            committed_by=await self._signer(state, committed) if rotated and committed is not None else None,
        )  # fmt: skip


def _subject(claim: PlannedClaim) -> str:
    return CLAIM_OF + claim.acknowledgement.channel.hex()
