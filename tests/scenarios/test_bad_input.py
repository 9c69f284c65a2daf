"""A hostile node on real QUIC says anything to gateway, provider, aggregator and DHT node.

After each attack the tables are as large as before, no stream stays open, an honest request succeeds, and the books balance.
"""

from __future__ import annotations

import msgspec
import pytest

from quiver import trace
from quiver.errors import StreamReset, WireCode
from quiver.identity import signing
from quiver.values import frames
from quiver.values.kad import KadMessage, KadType
from quiver.values.peer import PeerInfo
from quiver.values.receipt import Acknowledgement, ChannelHead
from quiver.values.request import Final
from quiver.wire.codec import VERSION
from quiver.wire.protocols import ACKS, INFERENCE, KAD, OFFER, RECEIPTS
from tests.scenarios.stage import CHAIN_ID, HUB
from tests.scenarios.wire import WireStage

replace = msgspec.structs.replace
V = bytes((VERSION,))
GARBAGE = {
    "nothing": (b"", WireCode.MALFORMED),
    "no fields": (V, WireCode.MALFORMED),
    "not MessagePack": (V + b"\xc1", WireCode.MALFORMED),
    "text": (b"GET / HTTP/1.1\r\n\r\n", WireCode.UNSUPPORTED_VERSION),
    "another major version": (b"\x20" + msgspec.msgpack.encode(["K"]), WireCode.UNSUPPORTED_VERSION),
    "unknown tag": (V + msgspec.msgpack.encode(["?", 1]), WireCode.MALFORMED),
    "unknown type": (V + msgspec.msgpack.encode({"type": "?"}), WireCode.MALFORMED),
    "fields missing": (V + msgspec.msgpack.encode(["A"]), WireCode.MALFORMED),
    "wrong types": (V + msgspec.msgpack.encode(["A", *"abcdefgh"]), WireCode.MALFORMED),
    "cut": (V + msgspec.msgpack.encode(["K", {"channel": bytes(32)}])[:-9], WireCode.MALFORMED),
    "not UTF-8": (V + b"\x92\xa1\xff\xa1\xff", WireCode.MALFORMED),
    "nested without end": (V + b"\x91" * 3000, WireCode.MALFORMED),
}
garbage = pytest.mark.parametrize(("data", "code"), GARBAGE.values(), ids=GARBAGE)


def play(attack, **stage):
    """Play `await attack(stage)`, then look whether anybody was hurt."""

    async def story(stage):
        assert isinstance((await stage.ask(1))[-1], Final)
        await stage.clock.sleep(3.0)
        before = stage.sizes()
        await attack(stage)
        await stage.clock.sleep(0.5)
        assert stage.sizes() == before
        for node in (stage.gateway, stage.aggregator, *stage.providers):
            assert stage.hostile.streams_open(node.peer_id) == 0
        stage.validate()
        await assert_honest_work_goes_on(stage)

    WireStage(**stage).play(story)


async def assert_honest_work_goes_on(stage):
    owed = stage.channel().log.head.cum
    final = (await stage.ask(900))[-1]
    assert isinstance(final, Final) and final.provider == stage.providers[0].peer_id
    assert (final.paid_credits, final.attempts) == (6_000, 1)
    await stage.clock.sleep(2.0)
    # Both ends of the channel and the aggregator hold the same, to the credit.
    assert stage.channel().log.acknowledged == stage.link().channel.log.head == stage.channel().log.head
    assert stage.channel().log.head.cum == owed + 6_000
    assert stage.aggregator.service.window.head(stage.channel().state.channel).cum == owed + 6_000


async def refused(stream):
    """The code the stream is reset with."""
    with pytest.raises(StreamReset) as caught:
        while await stream.receive() is not None:
            pass
    return caught.value.code


# ---- bytes that are no message


@garbage
@pytest.mark.parametrize("codec", [KAD, OFFER], ids=["dht", "offer"])
def test_an_rpc_that_is_no_message_is_reset_by_name(codec, data, code):
    async def attack(stage):
        for node in (stage.providers[0], stage.gateway) if codec is KAD else (stage.providers[0],):
            with pytest.raises(StreamReset) as caught:
                await stage.hostile.ask(node.peer_id, codec, data)
            assert caught.value.code == code

    play(attack)


@garbage
@pytest.mark.parametrize("codec", [INFERENCE, ACKS, RECEIPTS], ids=["inference", "acks", "receipts"])
def test_a_stream_with_what_is_no_message_is_reset_by_name(codec, data, code):
    async def attack(stage):
        node = stage.aggregator if codec is RECEIPTS else stage.providers[0]
        stream = await stage.hostile.open(node.peer_id, codec)
        await stream.send(data)
        assert await refused(stream) == code

    play(attack)


@pytest.mark.parametrize("codec", [KAD, OFFER, INFERENCE, ACKS, RECEIPTS], ids=lambda codec: codec.id)
def test_a_frame_beyond_the_protocols_limit_is_reset_before_it_is_read(codec):
    async def attack(stage):
        node = stage.aggregator if codec is RECEIPTS else stage.providers[0]
        stream = await stage.hostile.open(node.peer_id, codec)
        await stream.send(V + bytes(codec.frame_bytes_max))
        assert await refused(stream) == WireCode.MALFORMED

    play(attack)


# ---- frames that have no business there


def request_id(number=7):
    return number.to_bytes(16, "big")


STRAY = {
    "chunk": frames.Chunk(request_id=request_id(), index=0, tokens=1, text="x"),
    "accept": frames.Accept(request_id=request_id()),
    "cancel": frames.Cancel(request_id=request_id(), code=0),
    "authorised": frames.Authorised(channel=bytes(32), head=ChannelHead()),
    "busy with an absurd number": frames.Busy(request_id=b"", code=-(1 << 63), retry_after_s=float("nan")),
    "end with absurd numbers": frames.End(
        request_id=b"", done_reason="", prompt_tokens=1 << 63, completion_tokens=-1, chunks=-1, queue_s=float("inf")
    ),
}


@pytest.mark.parametrize("frame", STRAY.values(), ids=STRAY)
def test_an_inference_stream_that_does_not_begin_with_authorise_is_reset(frame):
    async def attack(stage):
        stream = await stage.hostile.open(stage.providers[0].peer_id, INFERENCE)
        await stream.send(frame)
        assert await refused(stream) == WireCode.PROTOCOL_VIOLATION

    play(attack)


@pytest.mark.parametrize(
    "frame",
    [
        frames.Ingested(batch_id=1, epoch=1, accepted=1, duplicates=0),
        frames.Refused(batch_id=1, code=1, message="no"),
        frames.ProofAnswer(epoch=1, channel=bytes(32), commitment=None, leaf=None, proof=None, acknowledgement=None),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_an_answer_where_an_aggregator_awaits_a_question_is_reset(frame):
    async def attack(stage):
        stream = await stage.hostile.open(stage.aggregator.peer_id, RECEIPTS)
        await stream.send(frame)
        assert await refused(stream) == WireCode.PROTOCOL_VIOLATION

    play(attack)


# ---- a stranger's channel


def test_a_stranger_cannot_open_or_acknowledge_on_the_gateways_channel():
    async def attack(stage):
        state, provider = stage.channel().state, stage.providers[0].peer_id
        expires_ms = stage.clock.utc_ms() + 60_000
        digest = signing.authorise_digest(
            CHAIN_ID, HUB, state.channel, stage.hostile.peer_id, provider, expires_ms
        )  # fmt: skip
        authorise = frames.Authorise(
            channel=state.channel, payer=state.payer, session=state.session, gateway=stage.hostile.peer_id,
            provider=provider, expires_ms=expires_ms, signature=await stage.hostile.signer.sign_session(digest),
            head=ChannelHead(),
        )  # fmt: skip
        # Its own signature over the payer's channel; then the payer's true peer id, which is not its connection's.
        for said in (authorise, replace(authorise, gateway=stage.gateway.peer_id)):
            stream = await stage.hostile.open(provider, INFERENCE)
            await stream.send(said)
            assert await refused(stream) == WireCode.NOT_AUTHORISED
        head = stage.channel().log.head
        forged = Acknowledgement(
            channel=state.channel, seq=head.seq, cum=head.cum, head=head.head,
            signature=await stage.hostile.signer.sign_session(signing.ack_digest(
                signing.ack_domain(CHAIN_ID, HUB), state.channel, head.cum, head.seq, head.head)),
        )  # fmt: skip
        absurd = replace(forged, seq=(1 << 64) - 1, cum=(1 << 64) - 1)
        cases = [
            (forged, WireCode.BAD_SIGNATURE), (absurd, WireCode.BAD_SIGNATURE),
            (replace(forged, signature=b""), WireCode.RECEIPT_MISMATCH),
            (replace(forged, seq=-1), WireCode.RECEIPT_MISMATCH), (replace(forged, head=b"x"), WireCode.RECEIPT_MISMATCH),
            (replace(forged, channel=bytes(32)), WireCode.NOT_AUTHORISED),
            (replace(forged, channel=b""), WireCode.NOT_AUTHORISED),
        ]  # fmt: skip
        for acknowledgement, code in cases:
            stream = await stage.hostile.open(provider, ACKS)
            await stream.send(frames.AckFrame(acknowledgement=acknowledgement))
            assert await refused(stream) == code
        assert stage.channel().log.head == head

    play(attack)


ABSURD_AUTHORISE = {
    "a time before 1970": {"expires_ms": -(1 << 63)},
    "a time without end": {"expires_ms": (1 << 64) - 1},
    "a channel of no bytes": {"channel": b""},
    "a channel of many bytes": {"channel": bytes(10_000)},
    "another provider": {"provider": b"\x01" * 38},
    "no signature": {"signature": b""},
    "a session of no bytes": {"session": b""},
}


@pytest.mark.parametrize("changes", ABSURD_AUTHORISE.values(), ids=ABSURD_AUTHORISE)
def test_an_absurd_authorise_is_not_authorised(changes):
    async def attack(stage):
        state, provider = stage.channel().state, stage.providers[0].peer_id
        authorise = frames.Authorise(
            channel=state.channel, payer=state.payer, session=state.session, gateway=stage.hostile.peer_id,
            provider=provider, expires_ms=stage.clock.utc_ms() + 60_000, signature=bytes(65), head=ChannelHead(),
        )  # fmt: skip
        stream = await stage.hostile.open(provider, INFERENCE)
        await stream.send(replace(authorise, **changes))
        assert await refused(stream) == WireCode.NOT_AUTHORISED

    play(attack)


# ---- an aggregator's questions


@pytest.mark.parametrize("epoch", [-(1 << 63), -1, 0, 1, (1 << 64) - 1])
@pytest.mark.parametrize("channel", [b"", bytes(32), bytes(1000)], ids=["none", "zeros", "long"])
def test_a_proof_of_an_epoch_that_is_not_there_is_answered_with_nothing(epoch, channel):
    async def attack(stage):
        stream = await stage.hostile.open(stage.aggregator.peer_id, RECEIPTS)
        await stream.send(frames.AskProof(epoch=epoch, channel=channel))
        answer = await stream.receive()
        assert isinstance(answer, frames.ProofAnswer) and answer.leaf is answer.commitment is None
        stream.finish()
        assert await stream.receive() is None

    play(attack)


BAD_BATCHES = {
    "no receipts": {"receipts": ()},
    "a previous head that is no digest": {"previous": ChannelHead(head=b"x")},
    "absurd numbers": {"previous": ChannelHead(seq=(1 << 64) - 1, cum=-1)},
}


@pytest.mark.parametrize("changes", BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_batch_that_is_not_ones_own_is_refused_with_evidence(changes):
    async def attack(stage):
        channel, head = stage.channel().state.channel, stage.channel().log.acknowledged
        last = stage.channel().log.last
        (receipt, *_) = [
            msgspec.msgpack.decode(row)["receipt"]
            for _, row in stage.aggregator.runtime.store.scan("aggregator_receipts")
        ]
        stolen = frames.SubmitReceipts(
            batch_id=-1, previous=ChannelHead(), acknowledgement=last, session=stage.channel().state.session,
            receipts=(msgspec.convert(receipt, frames.SignedReceipt),),
        )  # fmt: skip
        stream = await stage.hostile.open(stage.aggregator.peer_id, RECEIPTS)
        for batch in (
            stolen, replace(stolen, **changes), replace(stolen, acknowledgement=replace(last, channel=b"")),
            replace(stolen, acknowledgement=replace(last, seq=-1)),
        ):  # fmt: skip
            await stream.send(batch)
            answer = await stream.receive()
            assert isinstance(answer, frames.Refused) and answer.code == WireCode.RECEIPT_MISMATCH
            assert answer.batch_id == -1 and ": " in answer.message
        stream.finish()
        assert await stream.receive() is None
        assert stage.aggregator.service.window.head(channel) == head
        evidence = [event for event in stage.events.of(trace.EvidenceRecorded) if event.peer == stage.hostile.peer_id]
        assert len(evidence) == 4

    play(attack)


# ---- the DHT


def strange_questions(stage):
    other = stage.gateway.runtime.transport.local_info()
    me = stage.hostile.transport.local_info()
    nobody, junk = PeerInfo(peer_id=b""), PeerInfo(peer_id=bytes(5000), addresses=(b"\xff" * 600,) * 20)
    broken = WireCode.PROTOCOL_VIOLATION
    return [
        (KadMessage(type=KadType.FIND_NODE), WireCode.MALFORMED),
        (KadMessage(type=KadType.GET_PROVIDERS, key=bytes(81)), WireCode.MALFORMED),
        (KadMessage(type=KadType.PUT_VALUE, key=b"k"), broken),
        (KadMessage(type=KadType.GET_VALUE, key=b"k"), broken),
        (KadMessage(type=KadType.ADD_PROVIDER, key=b"k"), broken),
        (KadMessage(type=KadType.ADD_PROVIDER, key=b"k", providers=(other, nobody, junk)), broken),
        (KadMessage(type=KadType.ADD_PROVIDER, key=b"k", providers=(replace(me, addresses=()),)), broken),
    ]  # fmt: skip


def test_what_a_dht_node_does_not_serve_is_reset_and_nothing_is_stored():
    async def attack(stage):
        for node in (stage.gateway, stage.providers[0]):
            for question, code in strange_questions(stage):
                with pytest.raises(StreamReset) as caught:
                    await stage.hostile.ask(node.peer_id, KAD, question)
                assert caught.value.code == code

    play(attack)


def test_junk_peers_in_a_question_are_not_learned():
    async def attack(stage):
        junk = (PeerInfo(peer_id=b""), PeerInfo(peer_id=bytes(5000), addresses=(b"\xff" * 600,) * 20))
        question = KadMessage(type=KadType.FIND_NODE, key=b"k", providers=junk, closer=junk)
        answer = await stage.hostile.ask(stage.gateway.peer_id, KAD, question)
        assert answer.providers == () and not {info.peer_id for info in answer.closer} & {b"", bytes(5000)}

    play(attack)
