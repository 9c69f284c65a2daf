"""A provider reduced to its receipts: it issues them, has them acknowledged, and hands them in until the aggregator says so."""

from __future__ import annotations

import asyncio
import hashlib

from quiver.errors import PeerError, Unavailable
from quiver.identity.keys import KeyPair
from quiver.identity.signing import ack_digest, ack_domain, next_head, receipt_digest
from quiver.ids import compute_channel_id
from quiver.live.libp2p.host import Host
from quiver.quic.limits import Limits
from quiver.runtime import Deadline
from quiver.values.frames import AskEpoch, AskProof, Ingested, SubmitReceipts
from quiver.values.ledger import OpenChannel
from quiver.values.receipt import Acknowledgement, ChannelHead, ReceiptBody, SignedReceipt
from quiver.wire.protocols import RECEIPTS

# A killed aggregator is given up soon, so that its successor is met soon.
LIMITS = Limits(idle_timeout_s=0.4, handshake_timeout_s=0.4)
PATIENCE_S = 1.0
RECEIPTS_PER_BATCH = 3
AMOUNT = 5


class Seller:
    """`await start(...)`, then `sell` as a task. `acknowledged` maps a receipt's seq to its digest."""

    def __init__(self, number, payer, network, *, pace_s=0.0):
        self.keys, self.payer = KeyPair(bytes([number]) * 32), payer
        self.transport = Host(self.keys, limits=LIMITS, network=network)
        self.acknowledged, self.heads = {}, {0: ChannelHead()}
        self.promises = {}
        "The newest of each epoch."
        self.unpromised = 0
        self.failure = None
        "The last that made it try again."
        self.repeated = 0
        "Batches that were durable although their answer was lost."
        self._made = ChannelHead()
        self._previous = ChannelHead()
        self._pending = None
        self._batch_id = 0
        self._pace_s = pace_s

    async def start(self, ledger, aggregator):
        """Open a channel from the payer, whose ledger this is."""
        self.chain_id, self.contract = ledger.chain_id, ledger.contract
        self.domain = ack_domain(self.chain_id, self.contract)
        self.channel = compute_channel_id(self.domain, self.payer.account, self.keys.account, 0)
        await ledger.submit(
            OpenChannel(
                sender=self.payer.account, provider=self.keys.account, session=self.payer.session_address,
                amount=1_000_000, nonce=0,
            )
        )  # fmt: skip
        await self.transport.start()
        # As a provider does: a peer that is named is not left alone for minutes because it was dead a few times in a row.
        self.transport.pin(aggregator)
        self.aggregator = aggregator.peer_id

    async def sell(self, stop):
        """A batch after the other; one without an answer is sent again, verbatim."""
        while not stop.is_set():
            stream = None
            try:
                stream = await self.transport.open(self.aggregator, RECEIPTS, timeout_s=PATIENCE_S)
                while not stop.is_set():
                    await self._submit(stream)
                    await asyncio.sleep(self._pace_s)
                stream.finish()
            except (Unavailable, PeerError) as error:
                self.failure = error
                if stream is not None:
                    stream.reset(0)
                await asyncio.sleep(0.02)

    async def _submit(self, stream):
        batch = self._pending = self._pending or self._make_batch()
        async with Deadline(PATIENCE_S):
            await stream.send(batch)
            answer = await stream.receive()
        if answer is None:
            raise Unavailable("the aggregator went away")
        assert isinstance(answer, Ingested), answer
        assert answer.accepted + answer.duplicates == len(batch.receipts)
        self.repeated += answer.duplicates > 0
        self.acknowledged |= {one.body.seq: receipt_digest(one.body) for one in batch.receipts}
        self._previous, self._pending = self._made, None
        if answer.promise is None:
            self.unpromised += 1
        else:
            assert (answer.promise.epoch, answer.promise.channel) == (answer.epoch, self.channel)
            assert answer.promise.seq >= batch.acknowledgement.seq
            self.promises[answer.epoch] = answer.promise

    def _make_batch(self):
        receipts = tuple(self._issue() for _ in range(RECEIPTS_PER_BATCH))
        at = self._made
        digest = ack_digest(self.domain, self.channel, at.cum, at.seq, at.head)
        ack = Acknowledgement(
            channel=self.channel, seq=at.seq, cum=at.cum, head=at.head, signature=self.payer.sign_session(digest)
        )
        self._batch_id += 1
        return SubmitReceipts(
            batch_id=self._batch_id, previous=self._previous, receipts=receipts, acknowledgement=ack,
            session=self.payer.session_address,
        )  # fmt: skip

    def _issue(self):
        seq, cum = self._made.seq + 1, self._made.cum + AMOUNT
        body = ReceiptBody(
            chain_id=self.chain_id, contract=self.contract, channel=self.channel, request_id=seq.to_bytes(16, "big"),
            seq=seq, provider_key=self.keys.public_key, payer=self.payer.account, request_hash=hashlib.sha256(b"q").digest(),
            response_hash=hashlib.sha256(b"a").digest(), model=bytes(32), prompt_tokens=1, completion_tokens=1,
            amount=AMOUNT, cum=cum, issued_ms=1_700_000_000_000,
        )  # fmt: skip
        digest = receipt_digest(body)
        self._made = self.heads[seq] = ChannelHead(seq=seq, cum=cum, head=next_head(self._made.head, digest))
        return SignedReceipt(body=body, signature=self.keys.sign(digest))

    async def ask_proofs(self, epochs):
        """Answers of the epochs in which this channel has a leaf."""
        stream = await self.transport.open(self.aggregator, RECEIPTS, timeout_s=PATIENCE_S)
        answers = []
        for epoch in epochs:
            async with Deadline(PATIENCE_S):
                await stream.send(AskProof(epoch=epoch, channel=self.channel))
                answer = await stream.receive()
            if answer.leaf is not None:
                answers.append(answer)
        stream.finish()
        return answers

    async def wait_for_proof(self, seq, current_epoch):
        """Return once `seq` is under the leaf of a committed epoch; an aggregator that is starting is asked again."""
        epoch = max(self.promises)
        while True:
            answers = await self.ask_proofs(range(epoch, current_epoch()))
            if any(answer.leaf.seq >= seq for answer in answers):
                return
            await asyncio.sleep(0.1)

    async def watch_roots(self, epoch_ms, now_ms, stop):
        """(epoch -> commitments the aggregator ever showed); it is asked again and again, whichever life it is in."""
        shown = {}
        while not stop.is_set():
            stream = None
            try:
                stream = await self.transport.open(self.aggregator, RECEIPTS, timeout_s=PATIENCE_S)
                while not stop.is_set():
                    newest = now_ms() // epoch_ms
                    for epoch in range(newest - 4, newest):
                        async with Deadline(PATIENCE_S):
                            await stream.send(AskEpoch(epoch=epoch))
                            answer = await stream.receive()
                        if answer is None:
                            raise Unavailable("the aggregator went away")
                        if answer.commitment is not None:
                            shown.setdefault(epoch, set()).add(answer.commitment)
                    await asyncio.sleep(0.1)
                stream.finish()
            except (Unavailable, PeerError):
                if stream is not None:
                    stream.reset(0)
                await asyncio.sleep(0.05)
        return shown
