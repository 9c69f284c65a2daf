"""The request identity, and what the second bookkeeper refuses to book."""

from __future__ import annotations

import pytest

from quiver.ids import Address, ChannelId, PeerId, RequestId
from quiver.trace import LedgerMoved, RequestArrived, RequestFinished
from quiver.values.ledger import Deposit, LedgerEvent, TopUp
from sim.invariants import InvariantBroken, RequestCount, SecondBookkeeper

NODE = PeerId(b"gateway")


def arrived(number):
    return RequestArrived(
        at_s=0.0, node=NODE, request_id=RequestId(bytes([number])), model="m", prompt_tokens_estimate=1, max_tokens=1
    )


def finished(number, outcome):
    return RequestFinished(
        at_s=1.0, node=NODE, request_id=RequestId(bytes([number])), outcome=outcome, provider=None,
        prompt_tokens=0, completion_tokens=0, paid_credits=0, error="",
    )  # fmt: skip


def count(*events):
    requests = RequestCount()
    for event in events:
        requests.observe(event)
    return requests


def test_requests_are_the_sum_of_their_ends_and_what_gateways_still_hold():
    requests = count(
        *(arrived(n) for n in range(5)),
        *(finished(n, o) for n, o in enumerate(("completed", "rejected", "failed", "cancelled"))),
    )
    requests.check(unfinished=1)
    with pytest.raises(
        InvariantBroken,
        match=r"5 requests, but 1 completed \+ 1 rejected \+ 1 failed \+ 1 cancelled \+ 0 unfinished = 4",
    ):
        requests.check(unfinished=0)


@pytest.mark.parametrize(
    "events",
    [
        (arrived(1), arrived(1)),
        (finished(1, "completed"),),
        (arrived(1), finished(1, "completed"), finished(1, "failed")),
        (arrived(1), finished(1, "done")),
    ],
)
def test_a_request_arrives_once_and_ends_once_in_a_known_way(events):
    with pytest.raises(InvariantBroken):
        count(*events)


def moved(index, transaction, channel=None):
    return LedgerMoved(
        at_s=0.0, node=NODE, event=LedgerEvent(index=index, at_ms=0, transaction=transaction, channel=channel)
    )


def test_a_missing_or_double_event_is_noticed():
    deposit = Deposit(sender=Address(b"\1" * 20), amount=5)
    for index in (0, 2):
        books = SecondBookkeeper()
        books.observe(moved(0, deposit))
        with pytest.raises(InvariantBroken, match="missing or double"):
            books.observe(moved(index, deposit))


def test_credits_of_a_channel_that_is_not_open_cannot_move():
    books = SecondBookkeeper()
    books.observe(moved(0, Deposit(sender=Address(b"\1" * 20), amount=5)))
    with pytest.raises(InvariantBroken, match="not open"):
        books.observe(
            moved(1, TopUp(sender=Address(b"\1" * 20), channel=ChannelId(bytes(32)), amount=5), ChannelId(bytes(32)))
        )
