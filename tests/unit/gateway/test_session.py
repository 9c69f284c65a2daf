"""Whom a request tries, when it gives up, and what its client is told."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from quiver.errors import (
    BadSignature,
    Busy,
    DeadlineExceeded,
    NoProvider,
    PeerError,
    PeerUnreachable,
    SettlementError,
    Unavailable,
    WireCode,
)  # fmt: skip
from quiver.gateway.delivery import Delivery
from quiver.gateway.session import UNREACHABLE, Session, wire_code
from quiver.ids import PeerId
from quiver.params import Params
from quiver.values.request import TokenChunk
from tests.unit.gateway.test_delivery import HASH, QUOTE, chunk
from tests.unit.selection.builders import candidate, request

A, B, C = (PeerId(name.encode()) for name in "abc")
PARAMS = Params(attempts_max=3)
LOST = PeerUnreachable("lost")


def accept(session):
    """An attempt's quote of 100 credits."""
    session.deliveries.append(Delivery(QUOTE, HASH, PARAMS))
    return session.deliveries[-1]


def deliver(session, *, chunks, now=1.5):
    """A further attempt is accepted, and delivers that many tokens for 100 credits each; the client reads along."""
    delivery = accept(session)
    for index in range(chunks):
        delivery.on_chunk(chunk(index))
        if index == 0:
            session.on_first_token(delivery, now)
        if session.transcript is not None:
            session.transcript.add(TokenChunk(text="abc", tokens=1))
        delivery.billed_credits += 100
    return delivery


@pytest.fixture
def session():
    return Session(request(), PARAMS)


def test_an_open_channel_is_preferred_and_nobody_is_tried_twice(session):
    ready, other, third = candidate("a", channel_ready=True), candidate("b"), candidate("c", channel_ready=True)
    assert session.eligible([ready, other, third]) == [ready, third]
    session.on_dispatch(ready.peer, 1.0)
    assert session.eligible([ready, other, third]) == [third]
    session.on_dispatch(third.peer, 2.0)
    assert session.eligible([ready, other, third]) == [other]
    session.on_dispatch(other.peer, 3.0)
    assert session.eligible([ready, other, third]) == []
    assert (session.attempts, session.tried, session.dispatched_s) == (3, [ready.peer, third.peer, other.peer], 1.0)


def test_three_attempts_and_no_more(session):
    for peer, another in ((A, True), (B, True), (C, False)):
        session.on_dispatch(peer, 1.0)
        assert session.on_error(LOST) is another


def test_an_answer_that_has_begun_is_never_begun_again(session):
    session.on_dispatch(A, 1.0)
    deliver(session, chunks=1)
    assert session.on_error(LOST) is False
    assert session.on_error(Busy("full")) is False


def test_who_delivers_first_serves_and_what_both_cost_is_counted(session):
    first, second = accept(session), accept(session)
    for delivery in (second, first):
        delivery.on_chunk(chunk(0))
    assert session.on_first_token(second, 1.5) is True
    assert session.on_first_token(first, 1.5) is False
    first.billed_credits, second.billed_credits = 300, 40
    assert (session.paid_credits, session.delivered_tokens, session.parts) == (340, 1, [second])
    # Whoever delivered nothing was quoted in vain, unless it is the one that answers with nothing.
    third = accept(session)
    assert (session.quoted_credits(second), session.quoted_credits(third)) == (200, 300)


def resumable(**changes):
    return Session(
        replace(request(), **{"body": b'{"prompt":"Tell"}', "max_tokens": 10} | changes), PARAMS, resume=True
    )


def test_a_broken_answer_goes_on_with_what_is_missing():
    session = resumable()
    session.on_dispatch(A, 1.0)
    deliver(session, chunks=3)
    assert session.on_error(LOST) is True
    assert (session.asked.max_tokens, b"abcabcabc" in session.asked.body) == (7, True)
    session.on_dispatch(B, 2.0)
    delivery = deliver(session, chunks=2, now=2.5)
    assert (session.resumed, session.first_token_s, session.tokens_before(delivery)) == (1, 1.5, 3)
    assert (session.delivered_tokens, session.paid_credits, session.quoted_credits(delivery)) == (5, 500, 200)
    # From the very beginning again, not from the rest.
    assert session.on_error(LOST) is True
    assert (session.asked.max_tokens, session.asked.body.count(b"abc")) == (5, 5)
    session.on_dispatch(C, 3.0)
    deliver(session, chunks=1)
    assert session.on_error(LOST) is False, "three attempts and no more"
    failure = session.failure(LOST)
    assert (failure.delivered_tokens, failure.paid_credits, failure.resumed) == (6, 600, 2)


def test_chunks_that_come_after_the_cancel_are_paid_but_are_not_the_clients():
    session = resumable()
    first = deliver(session, chunks=3)
    session.on_error(Unavailable("silent"))
    first.on_chunk(chunk(3))
    first.billed_credits += 100
    deliver(session, chunks=1)
    assert (session.delivered_tokens, session.paid_credits) == (4, 500)


def test_nobody_is_left_to_go_on_and_the_client_learns_what_broke():
    session = resumable()
    session.on_dispatch(A, 1.0)
    deliver(session, chunks=2)
    session.on_error(LOST)
    failure = session.failure(NoProvider("nobody is left", retry_after_s=1.0))
    assert (failure.message, failure.delivered_tokens, failure.resumed) == (UNREACHABLE, 2, 0)


@pytest.mark.parametrize(
    "changes", [{"sealed": True}, {"once": True}, {"body": b'{"prompt":"x","format":"json"}'}, {"body": b"?"}], ids=str
)
def test_what_may_not_be_shown_or_cut_is_not_continued(changes):
    session = resumable(**changes)
    deliver(session, chunks=1)
    assert session.transcript is None and session.on_error(LOST) is False


def test_the_time_to_the_first_token_counts_only_without_a_failure(session):
    assert session.ttft_s is None
    session.on_dispatch(A, 1.0)
    deliver(session, chunks=1)
    assert session.ttft_s == 0.5
    session.on_error(Busy("full"))
    assert session.ttft_s is None


def test_busy_peers_use_up_no_attempt_but_are_not_asked_without_end(session):
    for number in range(4 * PARAMS.attempts_max - 1):
        session.on_dispatch(PeerId(bytes([number])), 1.0)
        assert session.on_error(Busy("full")) is True
    assert session.attempts == 0
    session.on_dispatch(A, 2.0)
    assert session.on_error(Busy("full")) is False


def test_the_last_attempts_error_says_more_than_that_nobody_is_left(session):
    session.on_dispatch(A, 1.0)
    session.on_error(Busy("the provider has no room now", retry_after_s=2.5))
    failure = session.failure(NoProvider("nobody is left", retry_after_s=1.0))
    assert (failure.code, failure.message, failure.retry_after_s) == (
        WireCode.BUSY,
        "the provider has no room now",
        2.5,
    )
    assert failure.attempts == 0


def test_without_an_attempt_the_reason_itself_is_told(session):
    failure = session.failure(NoProvider("nobody is left", retry_after_s=1.0))
    assert (failure.code, failure.message, failure.retry_after_s) == (WireCode.RESOURCE_LIMIT, "nobody is left", 1.0)


def test_half_way_the_client_learns_what_it_got_and_paid(session):
    session.on_dispatch(A, 1.0)
    deliver(session, chunks=7)
    session.on_error(LOST)
    failure = session.failure(BadSignature("the answer ended without a receipt"))
    assert (failure.code, failure.message) == (WireCode.BAD_SIGNATURE, "the answer ended without a receipt")
    assert (failure.delivered_tokens, failure.paid_credits, failure.attempts) == (7, 700, 1)
    assert failure.retry_after_s is None, "coming back does not help against a liar"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Busy("x"), WireCode.BUSY),
        (DeadlineExceeded("x"), WireCode.DEADLINE),
        (PeerUnreachable("x"), WireCode.RESOURCE_LIMIT),
        (Unavailable("x"), WireCode.RESOURCE_LIMIT),
        (BadSignature("x"), WireCode.BAD_SIGNATURE),
        (PeerError("x", wire_code=WireCode.REPLAYED), WireCode.REPLAYED),
        (SettlementError("x"), WireCode.INTERNAL),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_error_has_its_code(error, code):
    assert wire_code(error) == code
