"""The request identity, and what the second bookkeeper refuses to book."""

from __future__ import annotations

import msgspec
import pytest

from quiver.ids import Address, ChannelId, PeerId, RequestId
from quiver.trace import LedgerMoved, RequestArrived, RequestFinished
from quiver.values.ledger import (
    AnswerLeaf,
    ChallengeLeaf,
    ChallengeOmission,
    Deposit,
    Fault,
    Finalize,
    LedgerEvent,
    ProveBadHead,
    SubmitEpoch,
    TopUp,
)
from sim.invariants import InvariantBroken, RequestCount, SecondBookkeeper, leaf_key, omission_key
from tests.unit.settlement.test_disputes import (
    AGGREGATOR,
    PAYER,
    RESPOND_MS,
    SLASH,
    WATCHER,
    Court,
    make_contract,
)

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


# ---- bonds and disputes: a slash is 100, so a stake is 10


def court_with_books():
    """A court whose every accepted transaction the bookkeeper sees."""
    books = SecondBookkeeper(slash_credits=SLASH)
    contract = make_contract()
    accept = contract.apply

    def apply(transaction, now_ms):
        event = accept(transaction, now_ms)
        books.observe(LedgerMoved(at_s=0.0, node=NODE, event=event))
        books.compare(contract)
        return event

    contract.apply = apply
    return Court(contract), books


def test_bonds_stakes_and_slashes_are_booked_to_the_unit():
    court, books = court_with_books()
    honest, invented = court.leaf(court.channel, 60), court.leaf(court.other, 399)
    commitment = court.post(honest, invented)
    for index, leaf in enumerate((honest, invented)):
        court.send(ChallengeLeaf(sender=WATCHER, leaf=leaf, proof=court.tree.proof(index)))
    promise = court.promise(court.channel, 2)
    court.send(ChallengeOmission(sender=WATCHER, promise=promise))
    assert len(books.accusers) == 3 and books.balances[WATCHER] == 20
    signature = court.acknowledge(court.channel, 60).signature
    court.send(AnswerLeaf(sender=AGGREGATOR, leaf=honest, signature=signature))
    other = msgspec.structs.replace(commitment, root=bytes(32))
    court.send(ProveBadHead(sender=PAYER, signed=court.sign(other)))
    court.now_ms += RESPOND_MS
    for fault, subject in ((Fault.LEAF, leaf_key(invented)), (Fault.OMISSION, omission_key(court.channel, 2))):
        court.send(Finalize(sender=PAYER, fault=fault, epoch=0, subject=subject))
    assert books.accusers == {} and books.burnt == 150
    assert books.bonds[AGGREGATOR] == 1700 and books.balances[WATCHER] == 20 + 2 * (10 + 50)


def test_a_slash_that_took_another_sum_is_noticed():
    court, books = court_with_books()
    court.post(court.leaf(court.other, 50))
    court.send(ChallengeOmission(sender=WATCHER, promise=court.promise(court.channel, 3)))
    court.now_ms += RESPOND_MS
    event = LedgerEvent(
        index=books._next_index, at_ms=court.now_ms, paid=50, refunded=10, slashed=99,
        transaction=Finalize(sender=PAYER, fault=Fault.OMISSION, epoch=0, subject=omission_key(court.channel, 3)),
    )  # fmt: skip
    with pytest.raises(InvariantBroken, match="slashed 99, expected 50, 10 and 100"):
        books.observe(LedgerMoved(at_s=0.0, node=NODE, event=event))


def test_a_second_root_of_an_epoch_and_a_verdict_on_nobody_are_noticed():
    court, books = court_with_books()
    commitment = court.post(court.leaf(court.other, 50))
    finalize = Finalize(sender=PAYER, fault=Fault.LEAF, epoch=0, subject=bytes(32))
    for transaction, word in ((SubmitEpoch(sender=PAYER, commitment=commitment), "two roots"), (finalize, "nobody")):
        event = LedgerEvent(index=books._next_index, at_ms=0, transaction=transaction)
        with pytest.raises(InvariantBroken, match=word):
            books.observe(LedgerMoved(at_s=0.0, node=NODE, event=event))
