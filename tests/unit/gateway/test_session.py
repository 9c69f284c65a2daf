"""Whom a request tries, when it gives up, and what its client is told."""

from __future__ import annotations

import pytest

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
from quiver.gateway.session import Session, wire_code
from quiver.ids import PeerId
from quiver.params import Params
from tests.unit.selection.builders import candidate, request

A, B, C = (PeerId(name.encode()) for name in "abc")
PARAMS = Params(attempts_max=3)
LOST = PeerUnreachable("lost")


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
    session.first_token_s = 1.5
    assert session.on_error(LOST) is False
    assert session.on_error(Busy("full")) is False


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
    session.first_token_s, session.delivered_tokens, session.paid_credits = 1.5, 7, 700
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
