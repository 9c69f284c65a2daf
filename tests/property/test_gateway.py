"""A gateway's decisions over any story: a session's attempts, an inbox, a principal's rate."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from quiver.errors import (
    BadSignature,
    Busy,
    DeadlineExceeded,
    NoProvider,
    PeerError,
    PeerUnreachable,
    RequestRejected,
    Unavailable,
)  # fmt: skip
from quiver.gateway.admission import BURST_S, GatewayAdmission
from quiver.gateway.inbox import RequestInbox
from quiver.gateway.session import Session
from quiver.ids import RequestId
from quiver.params import Params
from quiver.runtime import Alarms
from quiver.values.frames import Chunk, End
from quiver.values.request import Principal
from sim.loop import Environment
from tests.examples import examples
from tests.unit.gateway.test_session import deliver
from tests.unit.selection.builders import candidate, request

REQUEST = RequestId(bytes(16))
ERRORS = st.sampled_from(
    [Busy("full", retry_after_s=1.0), PeerUnreachable("lost"), PeerError("liar"), BadSignature("liar"), DeadlineExceeded("late")]
)  # fmt: skip


@given(
    ready=st.lists(st.booleans(), min_size=1, max_size=40),
    attempts_max=st.integers(1, 4),
    endings=st.lists(st.tuples(ERRORS, st.booleans()), min_size=60, max_size=60),
    picks=st.lists(st.integers(0, 1_000), min_size=60, max_size=60),
    resume=st.booleans(),
)
def test_a_session_ends_asks_nobody_twice_and_never_begins_an_answer_again(ready, attempts_max, endings, picks, resume):
    asked = replace(request(), body=b'{"prompt":"Go on"}')
    session = Session(asked, Params(attempts_max=attempts_max), resume=resume)
    candidates = [candidate(f"{number:02}", channel_ready=flag) for number, flag in enumerate(ready)]
    faults, delivered, error = 0, 0, NoProvider("nobody is left")
    for (failure, had_token), pick in zip(endings, picks, strict=True):
        eligible = session.eligible(candidates)
        if not eligible:
            break
        chosen = eligible[pick % len(eligible)]
        assert chosen.peer not in session.tried
        unconnected = [other for other in candidates if other.channel_ready and other.peer not in session.tried]
        assert chosen.channel_ready or not unconnected
        session.on_dispatch(chosen.peer, 1.0)
        if had_token and not isinstance(failure, Busy):
            deliver(session, chunks=1)
            delivered += 1
        faults += not isinstance(failure, Busy)
        another, error = session.on_error(failure), failure
        if another and delivered:
            # It goes on where the client's text ends, and is never longer than it was asked for.
            assert resume and session.asked.max_tokens == asked.max_tokens - delivered
            assert session.asked.body.count(b"abc") == session.delivered_tokens == delivered
        if not another:
            break
    else:
        assert False, "it never ends"
    assert faults <= attempts_max and len(session.tried) <= 4 * attempts_max + faults
    told = session.failure(error)
    assert told.message and told.attempts == faults
    assert (told.retry_after_s is None) == (not isinstance(error, Unavailable) or error.retry_after_s is None)


FRAMES = st.one_of(
    st.just(("chunk",)), st.just(("chunk",)), st.just(("take",)), st.just(("end",)), st.just(("fail",)), st.just(("cancel",))
)  # fmt: skip


@settings(max_examples=examples(150))
@given(steps=st.lists(FRAMES, max_size=40), frames_max=st.integers(1, 5))
def test_an_inbox_is_a_bounded_queue_whose_end_always_fits(steps, frames_max):
    env = Environment()
    inbox = RequestInbox(frames_max=frames_max, request_hash=bytes(32), loop=env.loop, alarms=Alarms(env.loop))
    kept, failed = [], None
    for number, (step,) in enumerate(steps):
        if step == "take":
            assert inbox.take() == (kept.pop(0) if kept else None)
        elif step == "cancel":
            inbox.cancelled = True
        elif step == "fail":
            failed = failed or (None if inbox.ended else PeerUnreachable(str(number)))
            inbox.fail(PeerUnreachable(str(number)))
        elif step == "end" and not inbox.ended:
            inbox.ended = True
            end = End(
                request_id=REQUEST, done_reason="stop", prompt_tokens=0, completion_tokens=0, chunks=0, queue_s=0.0
            )
            assert inbox.put(end)
            kept += [] if inbox.cancelled else [end]
        elif step == "chunk" and not inbox.ended:
            chunk = Chunk(request_id=REQUEST, index=number, tokens=1, text="")
            fits = inbox.cancelled or len(kept) < frames_max
            assert inbox.put(chunk) is fits
            kept += [chunk] if fits and not inbox.cancelled else []
        assert len(kept) <= frames_max + 1

    async def read():
        for frame in kept:
            assert await inbox.get(1.0) == frame
        try:
            await inbox.get(1.0)
        except Unavailable as error:
            return error
        assert False, "nothing was left to get"

    error = env.run_coroutine(read())
    inbox.close()
    env.close()
    assert str(error) == str(failed) if failed is not None else isinstance(error, DeadlineExceeded)


@given(
    rate=st.floats(0.05, 100.0),
    gaps_s=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60),
)
def test_no_principal_gets_more_than_its_rate_and_its_burst_and_waiting_as_told_is_enough(rate, gaps_s):
    admission, principal, now, admitted = GatewayAdmission(Params()), Principal(name="one", requests_per_s=rate), 0.0, 0
    for gap_s in gaps_s:
        now += gap_s
        try:
            admission.admit(request(), principal, now=now, utc_ms=0)
            admitted += 1
        except RequestRejected as error:
            assert error.retry_after_s is not None and 0 < error.retry_after_s <= 1 / rate
            now += error.retry_after_s + 1e-6
            admission.admit(request(), principal, now=now, utc_ms=0)
            admitted += 1
        assert admitted <= max(1.0, rate * BURST_S) + rate * now + 1e-6
    assert admission.open == admitted
