"""Whom a gateway lets in."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from quiver.errors import Busy, RejectionReason, RequestRejected
from quiver.gateway import admission as module
from quiver.gateway.admission import GatewayAdmission
from quiver.params import Params
from quiver.values.request import Principal
from tests.unit.selection.builders import request

PARAMS = Params(body_bytes_max=100, max_tokens_limit=50, gateway_requests_max=2)
ANYBODY = Principal(name="anybody")
UTC_MS = 1_000


@pytest.fixture
def admission():
    return GatewayAdmission(PARAMS)


def admit(admission, principal=ANYBODY, *, now=0.0, **changes):
    admission.admit(replace(request(), **changes), principal, now=now, utc_ms=UTC_MS)


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"body": b"x" * 101}, RejectionReason.TOO_LARGE, "the request has 101 bytes, at most 100 are served"),
        ({"max_tokens": 0}, RejectionReason.BAD_REQUEST, "max_tokens must be 1 to 50, not 0"),
        ({"max_tokens": 51}, RejectionReason.BAD_REQUEST, "max_tokens must be 1 to 50, not 51"),
        ({"max_tokens": -(1 << 63)}, RejectionReason.BAD_REQUEST, "max_tokens must be 1 to 50"),
        ({"prompt_tokens_estimate": -1}, RejectionReason.TOO_LARGE, "a prompt of -1 tokens"),
        ({"prompt_tokens_estimate": 401}, RejectionReason.TOO_LARGE, "a prompt of 401 tokens"),
        ({"deadline_ms": UTC_MS}, RejectionReason.BAD_REQUEST, "the deadline has passed already"),
        ({"deadline_ms": -(1 << 63)}, RejectionReason.BAD_REQUEST, "the deadline has passed already"),
    ],
)
def test_what_is_not_served_is_refused_with_its_limit_and_counts_nothing(admission, changes, reason, says):
    with pytest.raises(RequestRejected, match=says) as caught:
        admit(admission, **changes)
    assert caught.value.reason is reason and admission.open == 0


def test_limits_themselves_are_served(admission):
    admit(admission, body=b"x" * 100, max_tokens=50, prompt_tokens_estimate=400, deadline_ms=UTC_MS + 1)
    assert admission.open == 1


def test_a_full_gateway_is_busy_until_a_request_ends(admission):
    admit(admission)
    admit(admission)
    with pytest.raises(Busy, match="2 requests open, its limit") as caught:
        admit(admission)
    assert caught.value.retry_after_s == 1.0 and admission.open == 2
    admission.release()
    admit(admission)


def test_a_principal_may_burst_two_seconds_of_its_rate_and_is_then_told_when_to_come_back():
    admission = GatewayAdmission(Params())
    ten = Principal(name="ten", requests_per_s=10.0)
    for _ in range(20):
        admit(admission, ten)
    with pytest.raises(RequestRejected, match=r"slower, please: try again in 0\.10 s") as caught:
        admit(admission, ten)
    assert caught.value.reason is RejectionReason.RATE_LIMITED
    assert caught.value.retry_after_s == pytest.approx(0.1)
    # Others are not held up, and in half a second there are five more.
    admit(admission, Principal(name="other", requests_per_s=10.0))
    admit(admission)
    for _ in range(5):
        admit(admission, ten, now=0.5)
    with pytest.raises(RequestRejected):
        admit(admission, ten, now=0.5)
    assert admission.open == 27


def test_less_than_one_request_a_second_is_still_one_at_once():
    admission = GatewayAdmission(Params())
    slow = Principal(name="slow", requests_per_s=0.1)
    admit(admission, slow)
    with pytest.raises(RequestRejected) as caught:
        admit(admission, slow, now=4.0)
    assert caught.value.retry_after_s == pytest.approx(6.0)
    admit(admission, slow, now=10.0)


def test_a_new_rate_counts_at_once(admission):
    admit(admission, Principal(name="a", requests_per_s=0.5))
    with pytest.raises(RequestRejected):
        admit(admission, Principal(name="a", requests_per_s=0.5))
    admit(admission, Principal(name="a", requests_per_s=100.0))


def test_a_request_that_finds_the_gateway_full_costs_its_principal_nothing(admission):
    one = Principal(name="one", requests_per_s=0.5)
    admit(admission)
    admit(admission)
    with pytest.raises(Busy):
        admit(admission, one)
    admission.release()
    admit(admission, one)


def test_remembered_principals_are_bounded_and_the_least_recent_starts_afresh(monkeypatch):
    monkeypatch.setattr(module, "PRINCIPALS_MAX", 2)
    admission = GatewayAdmission(Params())
    a, b, c = (Principal(name=name, requests_per_s=0.5) for name in "abc")
    for principal in (a, b, c):
        admit(admission, principal)
    # a is forgotten and may ask again; c is remembered.
    with pytest.raises(RequestRejected):
        admit(admission, c)
    admit(admission, a)
