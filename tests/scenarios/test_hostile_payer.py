"""A payer with a channel of its own that says anything to a provider: other payers are served as if it were not there."""

from __future__ import annotations

import pytest

from quiver.errors import WireCode
from quiver.ids import RequestId
from quiver.provider.pricing import Price
from quiver.values import frames
from quiver.values.request import Final
from tests.scenarios.garbage import STRAY, garbage, refused
from tests.scenarios.wire import WireStage

HUGE = (1 << 64) - 1


def play(story, **stage):
    """`await story(stage, stream)`; whatever the payer did, an honest request is served at once and nothing is held."""

    async def main(stage):
        stream = await stage.hostile.buy(stage.providers[0])
        await story(stage, stream)
        final = (await stage.ask(900))[-1]
        assert isinstance(final, Final) and (final.paid_credits, final.attempts) == (6_000, 1)
        stage.validate()
        admission = stage.providers[0].service.admission
        assert (admission.admitted, admission.running, stage.typists[0].typing) == (0, 0, 0)

    WireStage(**stage).play(main)


def exposure(stage):
    """Credits at risk on the hostile payer."""
    return stage.providers[0].service.channels[stage.hostile.channel].exposure


@garbage
def test_bytes_that_are_no_message_end_its_stream_only(data, code):
    async def story(stage, stream):
        await stream.send(stage.hostile.request())
        assert isinstance(await stream.receive(), frames.Quote)
        await stream.send(data)
        assert await refused(stream) == code
        assert stage.link().up and exposure(stage) == 0

    play(story)


@garbage
def test_bytes_that_are_no_message_in_the_middle_of_an_answer_end_it_and_it_is_billed(data, code):
    async def story(stage, stream):
        await stream.send(stage.hostile.request())
        quote = await stream.receive()
        await stream.send(frames.Accept(request_id=quote.request_id))
        assert isinstance(await stream.receive(), frames.Chunk)
        await stream.send(data)
        assert await refused(stream) == code
        await stage.clock.sleep(0.5)
        channel = stage.providers[0].service.channels[stage.hostile.channel]
        # At least the token it has read; the reservation became the debt.
        assert 2_000 <= channel.log.head.cum <= 4_000 and exposure(stage) == channel.log.head.cum

    play(story)


@pytest.mark.parametrize("frame", [STRAY["chunk"], STRAY["authorised"], STRAY["end with absurd numbers"]])
def test_a_frame_only_a_provider_may_send_ends_its_stream_only(frame):
    async def story(stage, stream):
        await stream.send(frame)
        assert await refused(stream) == WireCode.PROTOCOL_VIOLATION

    play(story)


ABSURD = {
    "a prompt without end": ({"prompt_tokens_estimate": HUGE}, WireCode.MALFORMED),
    "a negative prompt": ({"prompt_tokens_estimate": -(1 << 63)}, WireCode.MALFORMED),
    "tokens without end": ({"max_tokens": HUGE}, WireCode.TOO_LARGE),
    "negative tokens": ({"max_tokens": -(1 << 63)}, WireCode.TOO_LARGE),
    "a deadline before 1970": ({"deadline_ms": -(1 << 63)}, WireCode.DEADLINE),
    "no request id": ({"request_id": b""}, WireCode.MALFORMED),
    "a long request id": ({"request_id": bytes(10_000)}, WireCode.MALFORMED),
    "no channel": ({"channel": b""}, WireCode.NOT_AUTHORISED),
    "no model": ({"model": b""}, WireCode.UNKNOWN_MODEL),
    "a large body": ({"body": bytes(1024 * 1024 + 1)}, WireCode.TOO_LARGE),
}


@pytest.mark.parametrize(("changes", "code"), ABSURD.values(), ids=ABSURD)
def test_an_absurd_request_is_refused_by_name_and_the_stream_goes_on(changes, code):
    async def story(stage, stream):
        await stream.send(stage.hostile.request(**changes))
        answer = await stream.receive()
        assert isinstance(answer, frames.Busy | frames.Error) and answer.code == code
        assert exposure(stage) == 0
        # The same stream still serves an honest request.
        await stream.send(stage.hostile.request(2))
        assert isinstance(await stream.receive(), frames.Quote)
        await stream.send(frames.Cancel(request_id=stage.hostile.request(2).request_id, code=0))
        assert isinstance(await stream.receive(), frames.End)

    play(story)


def test_a_request_of_any_seed_deadline_and_hashes_is_a_request():
    async def story(stage, stream):
        opened = stage.hostile.request(seed=-(1 << 63), deadline_ms=HUGE // 2, prefix_hashes=(b"",) * 1000, sealed=True)
        await stream.send(opened)
        await stream.receive()
        await stream.send(frames.Accept(request_id=opened.request_id))
        kinds = []
        while not isinstance(frame := await stream.receive(), frames.End):
            kinds.append(type(frame))
        assert kinds.count(frames.Chunk) == 5 and frame.completion_tokens == 5

    play(story)


def test_a_replayed_request_is_refused_for_ever_and_held_once():
    async def story(stage, stream):
        opened = stage.hostile.request()
        await stream.send(opened)
        quote = await stream.receive()
        for _ in range(50):
            await stream.send(opened)
            assert (await stream.receive()).code == WireCode.REPLAYED
        assert exposure(stage) == quote.amount_max
        await stream.send(frames.Cancel(request_id=opened.request_id, code=-1))
        await stream.receive()
        other = await stage.hostile.authorised(stage.providers[0])
        await other.send(opened)
        assert (await other.receive()).code == WireCode.REPLAYED
        assert exposure(stage) == 0

    play(story)


def test_accept_and_cancel_a_hundred_times_are_accept_and_cancel():
    async def story(stage, stream):
        opened = stage.hostile.request()
        await stream.send(opened)
        quote = await stream.receive()
        for _ in range(100):
            await stream.send(frames.Accept(request_id=quote.request_id))
        assert isinstance(await stream.receive(), frames.Chunk)
        for _ in range(100):
            await stream.send(frames.Cancel(request_id=quote.request_id, code=HUGE))
        kinds = []
        while not isinstance(frame := await stream.receive(), frames.End):
            kinds.append(type(frame))
        assert frame.done_reason == "cancelled" and kinds.count(frames.ReceiptFrame) == 1
        await stream.send(frames.Accept(request_id=RequestId(bytes(16))))
        assert (await stream.receive()).code == WireCode.DEADLINE

    play(story)


def test_a_flood_of_requests_gets_what_the_queue_holds_and_busy_beyond():
    async def story(stage, stream):
        answers = []
        for number in range(1, 301):
            await stream.send(stage.hostile.request(number))
            answers.append(await stream.receive())
        quotes = [answer for answer in answers if isinstance(answer, frames.Quote)]
        # 2 slots and 2 places in the queue.
        assert len(quotes) == 4 and {answer.code for answer in answers[4:]} == {WireCode.BUSY}
        assert all(0.1 <= answer.retry_after_s <= 30.0 for answer in answers[4:])
        assert stage.providers[0].service.admission.admitted == 4
        stream.reset(0)
        await stage.clock.sleep(0.1)

    play(story)


def test_a_hundred_streams_hold_nothing_once_they_end():
    async def story(stage, stream):
        streams = [await stage.hostile.authorised(stage.providers[0]) for _ in range(100)]
        for number, one in enumerate(streams):
            await one.send(stage.hostile.request(number + 1))
            await one.receive()
        for one in streams:
            one.reset(0)
        await stage.clock.sleep(0.5)
        assert exposure(stage) == 0 and len(stage.providers[0].service.channels) == 2

    play(story)


# ---- found by these stories


def test_quotes_nobody_accepts_free_their_places_when_they_expire():
    async def story(stage, stream):
        for number in range(1, 5):
            await stream.send(stage.hostile.request(number))
            assert isinstance(await stream.receive(), frames.Quote)
        # A quote holds for twice the quote timeout; the stream stays open and silent.
        await stage.clock.sleep(2 * stage.params.quote_timeout_s + 1.0)

    play(story)


def test_a_payer_that_never_reads_gives_its_slot_back_within_the_request_timeout():
    async def story(stage):
        stream = await stage.hostile.buy(stage.providers[0])
        opened = stage.hostile.request(deadline_ms=HUGE // 2)
        await stream.send(opened)
        await stream.receive()
        await stream.send(frames.Accept(request_id=opened.request_id))
        await stage.clock.sleep(30.0)
        assert stage.typists[0].typing == 1, "its window is full, and the engine waits"
        await stage.clock.sleep(stage.params.request_timeout_s)
        assert stage.typists[0].typing == 0

    # About 40 bytes a token: more than any window holds.
    WireStage(slots=1, tokens=20_000, every_s=0.001).play(story)


def test_an_endless_prompt_is_refused_also_where_prompts_are_free(monkeypatch):
    monkeypatch.setattr("tests.scenarios.stage.PRICE", Price(prompt=0, completion=1_000_000_000, minimum_credits=1))

    async def story(stage):
        stream = await stage.hostile.buy(stage.providers[0])
        await stream.send(stage.hostile.request(prompt_tokens_estimate=HUGE))
        assert isinstance(await stream.receive(), frames.Busy | frames.Error)
        assert (await stage.ask(1))[-1].paid_credits == 5_000

    WireStage().play(story)


def test_an_id_is_not_taken_twice_while_its_quote_is_open_whatever_the_deadlines():
    async def story(stage, stream):
        # Late, but within the clock skew: forgotten as a replay in a second, while its quote holds longer.
        skew_ms = stage.params.clock_skew_ms_max
        await stream.send(stage.hostile.request(1, deadline_ms=stage.clock.utc_ms() - skew_ms + 1_000))
        assert isinstance(await stream.receive(), frames.Quote)
        await stage.clock.sleep(2.0)
        await stream.send(stage.hostile.request(2))
        assert isinstance(await stream.receive(), frames.Quote)
        await stream.send(stage.hostile.request(1))
        answer = await stream.receive()
        assert isinstance(answer, frames.Error) and answer.code == WireCode.REPLAYED
        await stage.clock.sleep(3 * stage.params.quote_timeout_s)

    play(story)
