"""How a provider gets its money: receipts to the aggregator, then claims with proofs, directly where the payer leaves.

Rules of this file: it awaits and moves values; what is worth claiming is decided in `settlement/claims`.
"""

from __future__ import annotations

import asyncio

from quiver.errors import PeerError, QuiverError, SettlementError
from quiver.ids import ChannelId, PeerId
from quiver.ports import Stream
from quiver.provider.channel import ProviderChannel
from quiver.runtime import Runtime
from quiver.settlement.claims import Claimable, PlannedClaim, plan_claims
from quiver.values.frames import AskProof, Ingested, ProofAnswer, Refused, SubmitReceipts
from quiver.values.ledger import Claim, ClaimDirect, Transaction
from quiver.wire.protocols import RECEIPTS

# Epochs whose proofs are still to be fetched, a channel; older ones are superseded, because leaves are cumulative.
EPOCHS_WAITING_MAX = 64


class Settler:
    """Shares the service's channels. Call `run` as a task."""

    def __init__(
        self,
        runtime: Runtime,
        channels: dict[ChannelId, ProviderChannel],
        aggregator: PeerId,
        *,
        claim_cost_credits: int = 0,
    ) -> None:
        self.runtime = runtime
        self.channels = channels
        self.aggregator = aggregator
        self.refusals = 0
        "Batches the aggregator refused; each is in the trace of the aggregator by name."
        self._claim_cost_credits = claim_cost_credits
        self._batch_id = 0
        # A round asked for from outside may meet one of `run`: both would submit and forget the same epochs.
        self._round = asyncio.Lock()
        self._epochs: dict[ChannelId, list[int]] = {}
        self._proofs: dict[ChannelId, ProofAnswer] = {}

    async def run(self) -> None:
        """Collect and claim every `receipts_interval_s`, each node at its own phase."""
        interval_s = self.runtime.params.receipts_interval_s
        await self.runtime.clock.sleep(self.runtime.rng.random() * interval_s)
        while True:
            await self.settle()
            await self.runtime.clock.sleep(interval_s)

    async def settle(self) -> None:
        """One round. An aggregator that is away costs a round, never a receipt."""
        async with self._round:
            try:
                if self._has_work():
                    await self._exchange()
            except QuiverError:
                # Receipts stay in the log until they are ingested; the next round tries again.
                pass
            await self._claim()

    def _has_work(self) -> bool:
        """Receipts to hand in, or a closed epoch to ask a proof of; an open one can prove nothing yet."""
        session = self.runtime.signer.session_address
        current = self._current_epoch()
        return any(epoch < current for epochs in self._epochs.values() for epoch in epochs) or any(
            channel.log.next_submission(0, session) is not None for channel in self.channels.values()
        )

    def _current_epoch(self) -> int:
        return self.runtime.clock.utc_ms() // self.runtime.params.epoch_ms

    async def _exchange(self) -> None:
        runtime, params = self.runtime, self.runtime.params
        stream = await runtime.transport.open(self.aggregator, RECEIPTS, timeout_s=params.dial_timeout_s)
        try:
            for channel_id in sorted(self.channels):
                async with runtime.clock.deadline(params.request_timeout_s):
                    await self._submit(stream, self.channels[channel_id])
            for channel_id in sorted(self._epochs):
                async with runtime.clock.deadline(params.request_timeout_s):
                    await self._ask_proof(stream, channel_id)
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
                return
            if not isinstance(answer, Ingested) or answer.batch_id != batch.batch_id:
                raise PeerError("an aggregator must answer a batch with Ingested or Refused", peer_id=self.aggregator)
            await self._on_ingested(channel, batch, answer)

    async def _on_ingested(self, channel: ProviderChannel, batch: SubmitReceipts, answer: Ingested) -> None:
        await self.runtime.store.commit(channel.log.on_ingested(batch))
        epochs = self._epochs.setdefault(channel.state.channel, [])
        if answer.epoch not in epochs:
            epochs.append(answer.epoch)
            del epochs[:-EPOCHS_WAITING_MAX]

    async def _ask_proof(self, stream: Stream, channel_id: ChannelId) -> None:
        """The newest epoch that is closed proves the most; older ones need no claim of their own."""
        epochs = self._epochs[channel_id]
        current = self._current_epoch()
        for epoch in sorted(epochs, reverse=True):
            if epoch >= current:
                continue
            await stream.send(AskProof(epoch=epoch, channel=channel_id))
            answer = await stream.receive()
            if not isinstance(answer, ProofAnswer) or answer.channel != channel_id:
                raise PeerError("an aggregator must answer AskProof with ProofAnswer", peer_id=self.aggregator)
            if answer.leaf is not None and answer.proof is not None and answer.acknowledgement is not None:
                self._proofs[channel_id] = answer
                epochs[:] = [later for later in epochs if later > epoch]
                break
        if not epochs:
            del self._epochs[channel_id]

    async def _claim(self) -> None:
        claimable = []
        for channel_id in sorted(self.channels):
            channel = self.channels[channel_id]
            state = self.runtime.ledger.channel(channel_id)
            if state is None or channel.log.last is None:
                continue
            channel.state = state
            answer = self._proofs.get(channel_id)
            committed = answer.acknowledgement if answer is not None else None
            claimable.append(Claimable(state=state, acknowledgement=channel.log.last, committed=committed))
        for planned in plan_claims(claimable, cost_credits=self._claim_cost_credits):
            try:
                await self.runtime.ledger.submit(self._transaction(planned))
            except SettlementError:
                # For example a root that is not on the ledger yet; the claim is planned again next round.
                continue

    def _transaction(self, planned: PlannedClaim) -> Transaction:
        sender = self.runtime.signer.account
        answer = self._proofs.get(planned.acknowledgement.channel)
        if planned.direct or answer is None or answer.leaf is None or answer.proof is None:
            return ClaimDirect(sender=sender, acknowledgement=planned.acknowledgement)
        return Claim(sender=sender, leaf=answer.leaf, proof=answer.proof, acknowledgement=planned.acknowledgement)
