"""Stories of gateway, provider and aggregator on the simulated network. A token costs 1,000 credits, a prompt token 100."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from quiver import trace
from quiver.errors import RejectionReason, RequestRejected, StreamReset, WireCode
from quiver.gateway.service import GatewayService
from quiver.identity import signing
from quiver.ids import RequestId
from quiver.provider import job
from quiver.provider.metering import Meter
from quiver.runtime import Nursery
from quiver.values import frames
from quiver.values.receipt import ChannelHead
from quiver.values.request import Dialect, Failure, Final, Principal, Qos, TokenChunk
from quiver.wire.protocols import ACKS, INFERENCE
from tests.scenarios.stage import IDLE_S, MODEL, Stage

replace = msgspec.structs.replace


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, TokenChunk))


@pytest.mark.parametrize("encoded", [False, True])
def test_a_request_streams_token_by_token_and_is_paid_to_the_credit(encoded):
    async def story(stage):
        seen = []
        await stage.ask(seen=seen)
        chunks = [(at, event) for at, event in seen if isinstance(event, TokenChunk)]
        assert [event.text for _, event in chunks] == ["tok "] * 5
        # Typed every 0.1 s, read every 0.1 s; the fifth waits 2 ms for the disk that holds the receipt of the first four.
        gaps = [later - earlier for (earlier, _), (later, _) in zip(chunks, chunks[1:], strict=False)]
        assert gaps == pytest.approx([0.1, 0.1, 0.1, 0.102])
        final = seen[-1][1]
        assert isinstance(final, Final)
        # 10 prompt tokens at 100, 5 tokens at 1,000.
        assert (final.paid_credits, final.completion_tokens, final.attempts) == (6_000, 5, 1)
        await stage.clock.sleep(1.0)
        assert stage.channel().log.acknowledged.cum == stage.link().channel.log.head.cum == 6_000
        assert stage.channel().exposure == 0 and stage.link().channel.available == 4_000_000 - 6_000

    Stage(encoded=encoded).play(story)


def test_a_provider_that_crashes_before_its_first_token_is_replaced():
    async def story(stage):
        events = await stage.ask_during(stage.after(0.3, stage.providers[0].crash))
        assert text_of(events) == "tok " * 5
        assert isinstance(events[-1], Final)
        assert (events[-1].provider, events[-1].attempts) == (stage.providers[1].peer_id, 2)
        assert [failed.provider for failed in stage.events.of(trace.AttemptFailed)] == [stage.providers[0].peer_id]

    Stage(providers=2).play(story)


def test_a_provider_that_crashes_in_its_answer_is_paid_for_its_receipts_only():
    async def story(stage):
        # Tokens at about 0.56, 0.66 ... s; the first receipt covers four of them.
        events = await stage.ask_during(stage.after(1.15, stage.providers[0].crash))
        failure = events[-1]
        assert isinstance(failure, Failure) and failure.attempts == 1
        delivered = len(events) - 1
        assert 4 < delivered < 20 and failure.delivered_tokens == delivered
        assert failure.paid_credits == 10 * 100 + 4 * 1_000

    Stage(providers=2, tokens=20).play(story)


def test_an_engine_that_breaks_off_is_paid_for_what_it_delivered():
    async def story(stage):
        events = await stage.ask()
        assert text_of(events) == "tok " * 3 and isinstance(events[-1], Failure)
        assert (events[-1].code, events[-1].delivered_tokens) == (WireCode.BACKEND_FAILED, 3)
        assert events[-1].paid_credits == 1_000 + 3_000
        await stage.clock.sleep(1.0)
        assert stage.channel().log.acknowledged.cum == 4_000

    Stage(breaks_after=3).play(story)


def test_busy_sends_a_request_elsewhere_and_never_ejects():
    async def story(stage):
        busy, idle = stage.providers
        admission = busy.service.admission
        queue_max, admission.queue_max = admission.queue_max, -admission.slots
        for number in range(1, 9):
            final = (await stage.ask(number))[-1]
            assert isinstance(final, Final) and final.provider == idle.peer_id and final.attempts == 1
        assert not stage.gateway.service.table.is_ejected(busy.peer_id, stage.clock.now())
        assert not stage.link(0)._inboxes
        admission.queue_max = queue_max
        assert (await stage.ask(9))[-1].provider == busy.peer_id

    Stage(providers=2).play(story)


def test_a_client_that_leaves_frees_the_slot_and_pays_for_what_was_sent():
    async def story(stage):
        events = stage.gateway.service.handle(stage.request(), Principal(name="client"))
        for _ in range(3):
            await anext(events)
        await events.aclose()
        await stage.clock.sleep(1.0)
        admission = stage.providers[0].service.admission
        assert (admission.running, admission.admitted, stage.typists[0].typing) == (0, 0, 0)
        channel = stage.channel()
        delivered = channel.log.head.cum
        # At least the three tokens it read; the one on its way counts as well.
        assert 1_000 + 3_000 <= delivered <= 1_000 + 4_000
        assert channel.log.acknowledged.cum == delivered and channel.exposure == 0
        assert stage.link().channel.available == 4_000_000 - delivered
        assert [event.outcome for event in stage.events.of(trace.RequestFinished)] == ["cancelled"]
        assert stage.link().up and not stage.events.of(trace.EvidenceRecorded)

    Stage(tokens=50).play(story)


@pytest.mark.parametrize("moment", range(20))
def test_a_client_may_leave_at_any_moment(moment):
    async def story(stage):
        async with Nursery() as nursery:
            task = nursery.start(stage.ask())
            await stage.clock.sleep(moment * 0.0525)
            task.cancel()
        await stage.clock.sleep(1.0)
        assert stage.providers[0].service.admission.admitted == 0
        assert not stage.link()._inboxes and stage.link().up
        channel = stage.channel()
        assert channel.exposure == 0 and channel.log.acknowledged == stage.link().channel.log.head
        assert not stage.events.of(trace.EvidenceRecorded)

    Stage(tokens=8).play(story)


# ---- a payer by hand


class Payer:
    """The gateway's keys, but frames as the story wants them."""

    def __init__(self, stage):
        self.stage, self.signer = stage, stage.gateway.signer
        self.provider = stage.providers[0]
        self.channel = stage.link().channel.state

    async def authorise(self, **changes):
        clock = self.stage.clock
        fields = {
            "channel": self.channel.channel, "payer": self.channel.payer, "session": self.channel.session,
            "gateway": self.signer.peer_id, "provider": self.provider.peer_id, "expires_ms": clock.utc_ms() + 60_000,
            "head": ChannelHead(),
        } | changes  # fmt: skip
        digest = signing.authorise_digest(
            self.stage.contract.chain_id, self.stage.contract.contract, fields["channel"], fields["gateway"],
            fields["provider"], fields["expires_ms"],
        )  # fmt: skip
        fields.setdefault("signature", await self.signer.sign_session(digest))
        stream = await self.stage.gateway.runtime.transport.open(self.provider.peer_id, INFERENCE, timeout_s=5)
        await stream.send(frames.Authorise(**fields))
        return stream

    def open(self, number=7, **changes):
        fields = {
            "request_id": RequestId(number.to_bytes(16, "big")), "channel": self.channel.channel, "model": MODEL,
            "dialect": Dialect.NATIVE, "max_tokens": 10, "prompt_tokens_estimate": 10,
            "deadline_ms": self.stage.clock.utc_ms() + 60_000, "qos": Qos.STANDARD, "seed": None, "sealed": False,
            "prefix_hashes": (), "body": b"{}",
        } | changes  # fmt: skip
        return frames.Open(**fields)


def by_hand(story, **stage):
    async def main(built):
        await story(built, Payer(built))

    Stage(**stage).play(main)


def test_a_replayed_request_id_is_refused():
    async def story(stage, payer):
        stream = await payer.authorise()
        await stream.receive()
        await stream.send(payer.open())
        assert isinstance(await stream.receive(), frames.Quote)
        await stream.send(payer.open())
        assert (await stream.receive()).code == WireCode.REPLAYED
        await stream.send(frames.Cancel(request_id=payer.open().request_id, code=0))
        assert isinstance(await stream.receive(), frames.End)
        # Also on another connection, after the first is over.
        other = await payer.authorise()
        await other.receive()
        await other.send(payer.open())
        assert (await other.receive()).code == WireCode.REPLAYED
        assert stage.providers[0].service.admission.admitted == 0

    by_hand(story)


@pytest.mark.parametrize(
    "changes",
    [
        {"channel": b"\xee" * 32},
        {"session": b"\x01" * 20},
        {"payer": b"\x01" * 20},
        {"signature": b"\x01" * 65},
        {"gateway": b"\x01" * 38},
        {"expires_ms": 1_600_000_000_000},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_who_may_not_spend_from_a_channel_is_not_authorised(changes):
    async def story(stage, payer):
        stream = await payer.authorise(**changes)
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == WireCode.NOT_AUTHORISED
        assert isinstance((await stage.ask())[-1], Final)

    by_hand(story)


def test_a_stranger_cannot_use_another_gateways_authorise():
    async def story(stage, payer):
        stranger = stage.network.node(b"stranger", index=50)
        expires_ms = stage.clock.utc_ms() + 60_000
        digest = signing.authorise_digest(
            stage.contract.chain_id, stage.contract.contract, payer.channel.channel, payer.signer.peer_id,
            payer.provider.peer_id, expires_ms,
        )  # fmt: skip
        overheard = frames.Authorise(
            channel=payer.channel.channel, payer=payer.channel.payer, session=payer.channel.session,
            gateway=payer.signer.peer_id, provider=payer.provider.peer_id, expires_ms=expires_ms,
            signature=await payer.signer.sign_session(digest), head=ChannelHead(),
        )  # fmt: skip
        stream = await stranger.open(payer.provider.peer_id, INFERENCE, timeout_s=5)
        await stream.send(overheard)
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == WireCode.NOT_AUTHORISED

    by_hand(story)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"body": b"x" * (1024 * 1024 + 1)}, WireCode.TOO_LARGE),
        ({"max_tokens": 0}, WireCode.TOO_LARGE),
        ({"max_tokens": 10**9}, WireCode.TOO_LARGE),
        ({"prompt_tokens_estimate": -(10**6)}, WireCode.MALFORMED),
        ({"request_id": b"short"}, WireCode.MALFORMED),
        ({"model": b"\x01" * 32}, WireCode.UNKNOWN_MODEL),
        ({"channel": b"\x01" * 32}, WireCode.NOT_AUTHORISED),
        ({"deadline_ms": 1_600_000_000_000}, WireCode.DEADLINE),
    ],
)
def test_an_open_that_cannot_be_served_is_refused_and_holds_nothing(changes, code):
    async def story(stage, payer):
        stream = await payer.authorise()
        await stream.receive()
        await stream.send(payer.open(**changes))
        answer = await stream.receive()
        assert isinstance(answer, frames.Error) and answer.code == code
        assert stage.providers[0].service.admission.admitted == 0 and stage.channel().exposure == 0

    by_hand(story)


def test_accept_and_cancel_in_one_instant_end_the_request():
    async def story(stage, payer):
        stream = await payer.authorise()
        await stream.receive()
        await stream.send(payer.open())
        quote = await stream.receive()
        await stream.send(frames.Accept(request_id=quote.request_id))
        await stream.send(frames.Cancel(request_id=quote.request_id, code=0))
        end = await stream.receive()
        assert isinstance(end, frames.End) and (end.done_reason, end.chunks) == ("cancelled", 0)
        assert stage.providers[0].service.admission.admitted == 0 and stage.channel().exposure == 0

    by_hand(story)


def test_an_accept_without_a_quote_is_answered():
    async def story(stage, payer):
        stream = await payer.authorise()
        await stream.receive()
        await stream.send(frames.Accept(request_id=RequestId(bytes(16))))
        assert (await stream.receive()).code == WireCode.DEADLINE

    by_hand(story)


def test_frames_only_a_provider_may_send_reset_only_that_stream():
    async def story(stage, payer):
        stream = await payer.authorise()
        await stream.receive()
        await stream.send(frames.Chunk(request_id=RequestId(bytes(16)), index=0, tokens=1, text="x"))
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == WireCode.PROTOCOL_VIOLATION
        assert stage.link().up and isinstance((await stage.ask())[-1], Final)

    by_hand(story, encoded=True)


def test_a_first_frame_that_is_not_authorise_resets_only_that_stream():
    async def story(stage, payer):
        stream = await stage.gateway.runtime.transport.open(payer.provider.peer_id, INFERENCE, timeout_s=5)
        await stream.send(payer.open())
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == WireCode.PROTOCOL_VIOLATION
        assert stage.link().up and isinstance((await stage.ask())[-1], Final)

    by_hand(story, encoded=True)


def test_a_forged_acknowledgement_is_evidence_and_counts_nothing():
    async def story(stage, payer):
        await stage.ask()
        head = stage.channel().log.head
        stream = await stage.gateway.runtime.transport.open(payer.provider.peer_id, ACKS, timeout_s=5)
        forged = frames.Acknowledgement(
            channel=payer.channel.channel, seq=head.seq, cum=head.cum, head=head.head, signature=b"\x01" * 65
        )
        before = stage.channel().log.acknowledged
        await stream.send(frames.AckFrame(acknowledgement=forged))
        with pytest.raises(StreamReset):
            await stream.receive()
        assert stage.channel().log.acknowledged == before
        (evidence,) = stage.events.of(trace.EvidenceRecorded)
        assert (evidence.node, evidence.kind) == (payer.provider.peer_id, "BadSignature")

    by_hand(story)


# ---- offers


@pytest.mark.parametrize("fault", ["expired", "signature", "name", "chain"])
def test_an_expired_or_forged_offer_is_never_a_candidate(fault):
    async def story(stage):
        node = stage.providers[0]
        signed = node.service.desk.offers[MODEL]
        change = {
            "expired": {"expires_ms": stage.clock.utc_ms() - 1}, "signature": {"prompt_price": 1},
            "name": {"provider": b"\x01" * 38}, "chain": {"chain_id": 1},
        }[fault]  # fmt: skip
        offer = replace(signed.offer, **change)
        signature = signed.signature if fault == "signature" else await node.signer.sign(signing.offer_bytes(offer))
        node.service.desk.offers[MODEL] = replace(signed, offer=offer, signature=signature)
        fresh = GatewayService(
            stage.gateway.runtime,
            stage.gateway.policy,
            {"tiny": MODEL},
            stage.gateway.service.pool.discovery._find_providers,
        )
        await fresh.pool.discovery.refresh(MODEL)
        assert fresh.table.candidates(MODEL, stage.clock.now()) == []
        node.service.desk.offers[MODEL] = signed
        assert await fresh.pool.discovery.refresh(MODEL) == 1
        assert len(fresh.table.candidates(MODEL, stage.clock.now())) == 1

    Stage().play(story)


def test_an_oversized_body_is_refused_at_the_gateway():
    async def story(stage):
        with pytest.raises(RequestRejected) as caught:
            await stage.ask(body=b"x" * (1024 * 1024 + 1))
        assert caught.value.reason is RejectionReason.TOO_LARGE
        assert stage.gateway.service.admission.open == 0
        assert [event.outcome for event in stage.events.of(trace.RequestFinished)] == ["rejected"]

    Stage().play(story)


# ---- money


class Greedy(Meter):
    """Bills a credit more than is owed."""

    def next_receipt(self, terms, head, **fields):
        body = super().next_receipt(terms, head, **fields)
        return replace(body, amount=body.amount + 1, cum=body.cum + 1)


def test_a_provider_that_bills_too_much_gets_nothing(monkeypatch):
    monkeypatch.setattr(job, "Meter", Greedy)

    async def story(stage):
        link = stage.link()
        failure = (await stage.ask())[-1]
        assert isinstance(failure, Failure) and failure.code == WireCode.RECEIPT_MISMATCH
        assert failure.paid_credits == 0
        (evidence,) = stage.events.of(trace.EvidenceRecorded)
        assert (evidence.peer, evidence.kind) == (stage.providers[0].peer_id, "ReceiptMismatch")
        channel = link.channel
        assert channel.log.head == ChannelHead() and channel.log.last is None and channel.available == 4_000_000
        assert stage.channel().log.acknowledged == ChannelHead()

    Stage().play(story)


def test_a_restarted_provider_keeps_its_head_and_resends_what_was_not_acknowledged():
    async def story(stage):
        node = stage.providers[0]
        await stage.ask(1)
        await stage.clock.sleep(1.0)
        acknowledged = stage.channel().log.acknowledged
        assert acknowledged.cum == 6_000
        # Power goes off between the receipt (durable, sent) and its acknowledgement.
        await stage.ask(2)
        head = stage.channel().log.head
        assert head.cum == 12_000 and stage.channel().log.acknowledged == acknowledged
        node.crash()
        await stage.clock.sleep(IDLE_S + 0.5)
        node.revive()
        await node.start([], announce=False)
        # The payer's power as well: what it accepted, but never signed, comes again from the provider.
        await stage.gateway.service.pool.prepare(MODEL)
        assert stage.channel().log.head == head == stage.link().channel.log.head
        await stage.clock.sleep(1.0)
        assert stage.channel().log.acknowledged == head
        assert (await stage.ask(3))[-1].paid_credits == 6_000
        assert stage.channel().log.head.cum == 18_000

    Stage().play(story)


def test_a_restarted_aggregator_holds_every_acknowledged_receipt_in_exactly_one_epoch():
    async def story(stage):
        aggregator, node = stage.aggregator, stage.providers[0]
        for number in range(1, 13):
            await stage.ask(number)
            await stage.clock.sleep(0.4)
            if number in (4, 8):
                aggregator.crash()
                await stage.clock.sleep(0.7)
                aggregator.revive()
                aggregator.service = type(aggregator.service)(aggregator.runtime)
                await aggregator.start()
        await stage.clock.sleep(15.0)
        await node.settler.settle()
        taken = stage.events.of(trace.ReceiptsIngested)
        # 12 requests of 5 tokens, a receipt every 4: two each; no receipt is counted in two epochs, none is lost.
        assert sum(event.accepted for event in taken) == 24
        assert stage.channel().log.acknowledged.cum == max(event.cum for event in taken) == 72_000
        commitments = stage.events.of(trace.EpochCommitted)
        epochs = [event.epoch for event in commitments]
        assert len(epochs) == len(set(epochs)) >= 2
        assert sorted({event.epoch for event in taken}) == sorted(epochs)
        await stage.clock.sleep(15.0)
        assert stage.contract.balance(node.signer.account) == 72_000

    Stage().play(story)


def test_two_requests_at_once_share_a_channel_without_a_fork():
    async def story(stage):
        answers = await asyncio.gather(*(stage.ask(number) for number in range(1, 5)))
        assert [answer[-1].paid_credits for answer in answers] == [6_000] * 4
        await stage.clock.sleep(1.0)
        assert stage.channel().log.head == stage.link().channel.log.head == stage.channel().log.acknowledged
        assert stage.channel().log.head.cum == 24_000

    Stage().play(story)
