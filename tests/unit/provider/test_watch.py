"""What a broken promise and a challenged leaf make a provider do, by hand: an epoch's root is at 1,000, the window 10,000 ms."""

from __future__ import annotations

import msgspec
import pytest

from quiver.ids import Address, ChannelId
from quiver.params import Params
from quiver.provider.leaves import KeptLeaf
from quiver.provider.watch import Asked, Docket, Step, judge_leaf, judge_promise
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.settlement.terms import Terms
from quiver.values.ledger import (
    BondState,
    ChallengeLeaf,
    ChallengeState,
    Commitment,
    EpochState,
    Fault,
    Leaf,
    LedgerEvent,
    Promise,
    RequestExit,
    Verdict,
)
from quiver.values.receipt import Acknowledgement
from sim.loop import Environment
from sim.store import MemoryStore

replace = msgspec.structs.replace
US, OTHER, POSTER = (Address(bytes([n]) * 20) for n in (1, 2, 3))
CHANNEL = ChannelId(b"\xcc" * 32)
PARAMS = Params(exit_delay_s=20.0, slash_credits=100)
TERMS = Terms.from_params(PARAMS)
PROMISE = Promise(epoch=7, channel=CHANNEL, cum=50, seq=5, head=bytes(32), signature=b"s")
LEAF = Leaf(epoch=7, channel=CHANNEL, cum=50, seq=5, head=bytes(32))
TREE = MerkleTree([hash_leaf(LEAF)])
ROOT = EpochState(commitment=Commitment(epoch=7, root=TREE.root, count=1), submitted_ms=1_000, poster=POSTER)
KEPT = KeptLeaf(
    leaf=LEAF, proof=TREE.proof(0),
    acknowledgement=Acknowledgement(channel=CHANNEL, seq=5, cum=50, head=bytes(32), signature=b"a"),
)  # fmt: skip


def judged(**changes):
    given = {
        "root": ROOT, "kept": None, "asked": Asked.REFUSED, "challenge": None, "terms": TERMS, "account": US,
        "free_credits": TERMS.stake, "now_ms": 2_000,
        "bond": BondState(account=POSTER, signer=POSTER, amount=2_000),
    } | changes  # fmt: skip
    return judge_promise(PROMISE, **given)


def on_trial(verdict=Verdict.OPEN, challenger=US, fault=Fault.OMISSION):
    return ChallengeState(
        fault=fault, epoch=7, subject=bytes(32), challenger=challenger, respond_by_ms=4_500, verdict=verdict
    )


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({}, Step.CHALLENGE),
        ({"root": None}, Step.WAIT),
        ({"kept": KEPT}, Step.FORGET),
        # An older leaf than promised is as good as none.
        ({"kept": replace(KEPT, leaf=replace(LEAF, seq=4))}, Step.CHALLENGE),
        ({"asked": Asked.NOT_YET}, Step.WAIT),
        ({"asked": Asked.SILENT, "now_ms": 5_999}, Step.WAIT),
        ({"asked": Asked.SILENT, "now_ms": 6_000}, Step.CHALLENGE),
        ({"now_ms": 10_999}, Step.CHALLENGE),
        ({"now_ms": 11_000}, Step.FORGET),
        ({"bond": None}, Step.FORGET),
        ({"free_credits": TERMS.stake - 1}, Step.WARN),
        ({"challenge": on_trial(), "now_ms": 4_499}, Step.WAIT),
        ({"challenge": on_trial(), "now_ms": 4_500}, Step.FINALIZE),
        ({"challenge": on_trial(challenger=OTHER), "now_ms": 4_500}, Step.WAIT),
        ({"challenge": on_trial(Verdict.ANSWERED)}, Step.FORGET),
        ({"challenge": on_trial(Verdict.SLASHED)}, Step.FORGET),
    ],
)
def test_a_promise(changes, step):
    assert judged(**changes) is step


@pytest.mark.parametrize(
    ("kept", "challenge", "now_ms", "step"),
    [
        (KEPT, on_trial(fault=Fault.LEAF), 4_499, Step.ANSWER),
        (None, on_trial(fault=Fault.LEAF), 4_499, Step.WARN),
        (replace(KEPT, leaf=replace(LEAF, cum=51)), on_trial(fault=Fault.LEAF), 4_499, Step.WARN),
        (KEPT, on_trial(fault=Fault.LEAF), 4_500, Step.FORGET),
        (KEPT, on_trial(Verdict.ANSWERED, fault=Fault.LEAF), 2_000, Step.FORGET),
        (KEPT, None, 2_000, Step.FORGET),
    ],
)
def test_a_challenged_leaf(kept, challenge, now_ms, step):
    assert judge_leaf(LEAF, kept=kept, challenge=challenge, now_ms=now_ms) is step


def test_the_docket_comes_back_and_is_bounded(monkeypatch):
    monkeypatch.setattr("quiver.provider.watch.PROMISES_MAX", 2)
    store, docket = MemoryStore(fsync_s=0), Docket()

    def write(batch):
        Environment().run_coroutine(store.commit(batch))

    write(docket.on_promise(PROMISE))
    assert docket.on_promise(replace(PROMISE, seq=4)) == []
    for epoch in (8, 9):
        write(docket.on_promise(replace(PROMISE, epoch=epoch)))
    write(docket.on_promise(replace(PROMISE, epoch=9, seq=6)))
    foreign = replace(LEAF, channel=ChannelId(bytes(32)))
    events = [
        LedgerEvent(index=index, at_ms=0, transaction=transaction)
        for index, transaction in enumerate(
            (
                RequestExit(sender=US, channel=CHANNEL),
                ChallengeLeaf(sender=OTHER, leaf=LEAF, proof=TREE.proof(0)),
                ChallengeLeaf(sender=OTHER, leaf=foreign, proof=TREE.proof(0)),
            )
        )
    ]
    write([*docket.on_events(events, {CHANNEL}), *docket.put_cursor()])
    again = Docket.load(store)
    assert [(held.epoch, held.seq) for held in again.promises] == [(8, 5), (9, 6)] and again.promises == docket.promises
    assert again.challenged == [LEAF] and again.cursor == again.kept_cursor == 3
    write(again.forget_leaf(LEAF))
    write(again.forget_promise(replace(PROMISE, epoch=8)))
    last = Docket.load(store)
    assert last.challenged == [] and [held.epoch for held in last.promises] == [9]
