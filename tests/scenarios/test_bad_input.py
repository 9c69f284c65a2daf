"""A hostile node on real QUIC says anything to gateway, provider, aggregator and DHT node.

After each attack the tables are as large as before, no stream stays open, an honest request succeeds, and the books balance.

Where each kind of bad input is tested (`test_the_table_above_names_tests_that_are_there` holds this table):

| input | test |
|---|---|
| malformed frames | tests/property/test_codecs.py::test_any_bytes_are_a_message_or_malformed |
| malformed frames, provider, DHT | tests/scenarios/test_bad_input.py::test_an_rpc_that_is_no_message_is_reset_by_name |
| malformed frames, provider, aggregator | tests/scenarios/test_bad_input.py::test_a_stream_with_what_is_no_message_is_reset_by_name |
| malformed frames from a payer | tests/scenarios/test_hostile_payer.py::test_bytes_that_are_no_message_end_its_stream_only |
| malformed frames from a provider | tests/scenarios/test_hostile_provider.py::test_before_the_first_token_another_provider_answers_and_nobody_pays |
| malformed framing | tests/unit/quic/test_driver.py::test_bytes_that_break_the_framing_reset_the_stream_only |
| malformed datagrams | tests/unit/quic/test_endpoint.py::test_datagrams_that_are_not_quic_change_nothing |
| oversized frames | tests/scenarios/test_bad_input.py::test_a_frame_beyond_the_protocols_limit_is_reset_before_it_is_read |
| oversized requests | tests/scenarios/test_roles.py::test_an_oversized_body_is_refused_at_the_gateway |
| unknown frames | tests/property/test_codecs.py::test_a_frame_with_an_unknown_tag_is_malformed_and_says_which |
| frames in the wrong place | tests/scenarios/test_bad_input.py::test_an_inference_stream_that_does_not_begin_with_authorise_is_reset |
| wrong peer id, dialled | tests/unit/quic/test_tls.py::test_another_peer_than_the_one_dialled_is_refused |
| wrong peer id, in an offer | tests/scenarios/test_hostile_provider.py::test_an_absurd_offer_makes_no_candidate |
| wrong peer id, in a record | tests/scenarios/test_bad_input.py::test_what_a_dht_node_does_not_serve_is_reset_and_nothing_is_stored |
| expired or forged offers | tests/scenarios/test_roles.py::test_an_expired_or_forged_offer_is_never_a_candidate |
| a stranger's channel | tests/scenarios/test_bad_input.py::test_a_stranger_cannot_open_or_acknowledge_on_the_gateways_channel |
| a stranger's receipts | tests/scenarios/test_bad_input.py::test_a_batch_that_is_not_ones_own_is_refused_with_evidence |
| replayed requests | tests/scenarios/test_hostile_payer.py::test_a_replayed_request_is_refused_for_ever_and_held_once |
| bad JSON | tests/live/test_any_body.py::test_any_body_is_served_or_refused_in_the_doors_own_shape |
| bad JSON | tests/live/test_openai_door.py::test_what_is_not_a_request_is_a_400 |
| unknown fields, in a frame | tests/property/test_codecs.py::test_fields_of_a_newer_minor_version_are_ignored_and_another_major_is_refused_by_name |
| unknown fields, in JSON | tests/live/test_native_door.py::test_a_typo_is_refused_and_errors_have_a_code |
| absurd numbers, in a request | tests/scenarios/test_hostile_payer.py::test_an_absurd_request_is_refused_by_name_and_the_stream_goes_on |
| absurd numbers, in a quote | tests/scenarios/test_hostile_provider.py::test_a_quote_that_cannot_be_true_sends_the_request_elsewhere |
| absurd numbers, in a receipt | tests/scenarios/test_hostile_provider.py::test_a_signed_receipt_over_what_was_not_delivered_is_evidence_and_not_paid |
| absurd numbers, to an aggregator | tests/scenarios/test_bad_input.py::test_a_proof_of_an_epoch_that_is_not_there_is_answered_with_nothing |
| absurd numbers, in JSON | tests/live/test_openai_door.py::test_what_cannot_be_served_is_refused_by_name |
| a config with an unknown key | tests/unit/live/test_config.py::test_an_unknown_key_is_refused_with_file_key_and_the_known_ones |
| a config with anything changed | tests/property/test_config.py::test_a_changed_file_is_read_as_it_stands_or_refused_with_its_name |
| a missing data file | tests/unit/sim/test_data.py::test_a_missing_file_says_where_it_was_looked_for_and_three_ways_out |
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from quiver import trace
from quiver.errors import StreamReset, WireCode
from quiver.identity import signing
from quiver.values import frames
from quiver.values.kad import KadMessage, KadType, Record
from quiver.values.peer import PeerInfo
from quiver.values.receipt import Acknowledgement, ChannelHead
from quiver.values.request import Final
from quiver.wire.protocols import ACKS, INFERENCE, KAD, OFFER, RECEIPTS
from tests.scenarios.garbage import STRAY, V, assert_honest_work_goes_on, garbage, refused
from tests.scenarios.stage import CHAIN_ID, HUB
from tests.scenarios.wire import WireStage

replace = msgspec.structs.replace


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


# ---- bytes that are no message


@garbage
@pytest.mark.parametrize("codec", [KAD, OFFER], ids=["dht", "offer"])
def test_an_rpc_that_is_no_message_is_reset_by_name(codec, data, code):
    async def attack(stage):
        for node in (stage.providers[0], stage.gateway) if codec is KAD else (stage.providers[0],):
            with pytest.raises(StreamReset) as caught:
                await stage.hostile.ask(node.peer_id, codec, data)
            # The DHT's protobuf has no version that could be another.
            assert caught.value.code == (WireCode.MALFORMED if codec is KAD else code)

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
        (KadMessage(type=KadType.PUT_VALUE, key=b"k"), WireCode.MALFORMED),
        (KadMessage(type=KadType.PUT_VALUE, key=b"/n/k", record=Record(key=b"/n/k", value=b"")), broken),
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


def test_the_table_above_names_tests_that_are_there():
    root = Path(__file__).parents[2]
    named = re.findall(r"\| (tests/\S+)::(test_\w+) \|", __doc__)
    assert len(named) == len(re.findall(r"^\| ", __doc__, re.MULTILINE)) - 1 > 20
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (root / file).read_text("utf-8"), re.MULTILINE), (file, test)
