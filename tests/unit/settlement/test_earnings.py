"""The report of earnings by hand: two channels, two days, two models; a dispute won, one lost, one open."""

from __future__ import annotations

from quiver.ids import Address, ChannelId, ModelId
from quiver.params import Params
from quiver.receipts.totals import DAY_MS, Totals
from quiver.settlement.books import Books
from quiver.settlement.challenges import subject_of_omission
from quiver.settlement.earnings import (
    ACCOUNT,
    By,
    ChannelReport,
    Earning,
    compute_earnings,
    compute_sum,
    day_text,
)
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.settlement.terms import Terms
from quiver.values.ledger import (
    AnswerLeaf,
    AnswerOmission,
    ChallengeLeaf,
    ChallengeOmission,
    ClaimDirectBatch,
    Deposit,
    Fault,
    Finalize,
    Leaf,
    LedgerEvent,
    OpenChannel,
    Promise,
    RequestExit,
)
from quiver.values.receipt import Acknowledgement

US, PAYER, OTHER = (Address(bytes([n]) * 20) for n in (1, 2, 3))
A, B = ChannelId(b"\xaa" * 32), ChannelId(b"\xbb" * 32)
ONE, TWO = ModelId(b"\x01" * 32), ModelId(b"\x02" * 32)
TERMS = Terms.from_params(Params(slash_credits=100))
DAY = 20_000


def ledger(*moves):
    """Books of us after (transaction, changes of its event) in a row, all on day `DAY`."""
    books = Books(account=US, terms=TERMS)
    books.read(
        LedgerEvent(index=index, at_ms=DAY * DAY_MS, transaction=transaction, **changes)
        for index, (transaction, changes) in enumerate(moves)
    )
    assert books.cursor == len(moves)
    return books


def opened(channel, amount):
    return OpenChannel(sender=PAYER, provider=US, session=PAYER, amount=amount, nonce=0), {"channel": channel}


def ack(channel, cum):
    return Acknowledgement(channel=channel, seq=1, cum=cum, head=bytes(32), signature=b"")


def report(channel, cells, acknowledged, served=None, peer="p"):
    cells = {
        cell: Totals(receipts=1, prompt_tokens=2, completion_tokens=3, amount=amount) for cell, amount in cells.items()
    }
    served = sum(cell.amount for cell in cells.values()) if served is None else served
    return ChannelReport(channel=channel, peer=peer, cells=cells, served=served, acknowledged=acknowledged)


def test_what_a_channel_paid_is_what_it_served_first():
    batch = ClaimDirectBatch(sender=US, acknowledgements=(ack(A, 60), ack(B, 500)))
    books = ledger(opened(A, 1000), opened(B, 80), (batch, {"paid": 140, "gas_wei": 9}))
    reports = [
        report(A, {(DAY, ONE): 50, (DAY, TWO): 30, (DAY + 1, ONE): 20}, 90, peer="a"),
        report(B, {(DAY, ONE): 120}, 100, peer="b"),
    ]
    rows = {row.key: row for row in compute_earnings(reports, books, by=By.MODEL)}
    assert rows.keys() == {ONE.hex(), TWO.hex(), ACCOUNT}
    one, two = rows[ONE.hex()], rows[TWO.hex()]
    # A: 60 of 50 + 30 paid, signed up to 90. B: all 80 of its deposit paid; 20 more signed for and beyond it, 20 not signed.
    assert (two.served, two.claimed, two.unclaimed, two.owed) == (30, 10, 20, 0)
    assert (one.served, one.claimed, one.unclaimed, one.owed) == (190, 50 + 80, 10 + 20, 10 + 20)
    assert (one.at_risk, two.at_risk) == (10 + 20 + 20, 0)
    assert (one.receipts, one.prompt_tokens, one.completion_tokens) == (3, 6, 9)
    assert (rows[ACCOUNT].gas_wei, rows[ACCOUNT].net) == (9, 0)
    days = [(row.key, row.served, row.gas_wei) for row in compute_earnings(reports, books, by=By.DAY)]
    assert days == [(day_text(DAY), 200, 9), (day_text(DAY + 1), 20, 0)]
    peers = [(row.key, row.served) for row in compute_earnings(reports, books, by=By.PEER)]
    assert peers == [(ACCOUNT, 0), ("a", 100), ("b", 120)]
    (later,) = compute_earnings(reports, books, since_ms=(DAY + 1) * DAY_MS + 5)
    assert (later.served, later.gas_wei) == (20, 0)
    (spent,) = compute_earnings(reports, books, pays=True)
    assert spent.net == -140


def test_a_payer_that_leaves_puts_all_that_is_unclaimed_at_risk_and_a_lost_disk_leaves_an_unknown_row():
    books = ledger(opened(A, 1000), (RequestExit(sender=PAYER, channel=A), {"channel": A}))
    (row,) = compute_earnings([report(A, {}, 70, served=70)], books, by=By.MODEL)
    assert row == Earning(key="unknown", served=70, acknowledged=70, unclaimed=70, at_risk=70)


def test_stakes_and_rewards_are_on_the_account():
    def promise(seq):
        return Promise(epoch=1, channel=A, cum=1, seq=seq, head=bytes(32), signature=b"")

    def leaf(seq):
        return Leaf(epoch=1, channel=A, cum=1, seq=seq, head=bytes(32))

    proof = MerkleTree([hash_leaf(leaf(1))]).proof(0)
    subject = subject_of_omission(A, 1)
    books = ledger(
        opened(A, 100),
        (Deposit(sender=US, amount=1000), {}),
        # Won: 50 of the bond. Lost: the stake goes to the answerer. Open: the stake is on the table. Answered: a stake of theirs.
        (ChallengeOmission(sender=US, promise=promise(1)), {}),
        (Finalize(sender=OTHER, fault=Fault.OMISSION, epoch=1, subject=subject), {"paid": 50, "refunded": 10}),
        (ChallengeOmission(sender=US, promise=promise(2)), {}),
        (AnswerOmission(sender=OTHER, promised_seq=2, leaf=leaf(2), proof=proof), {"paid": 10}),
        (ChallengeLeaf(sender=US, leaf=leaf(3), proof=proof), {}),
        (ChallengeLeaf(sender=OTHER, leaf=leaf(4), proof=proof), {}),
        (AnswerLeaf(sender=US, leaf=leaf(4), signature=b""), {"paid": 10, "gas_wei": 5}),
    )
    (row,) = compute_earnings([], books)
    assert row == Earning(key="total", in_dispute=10, gas_wei=5, net=50 - 10 + 10)
    assert books.deposited == 1000


def test_sums_and_days():
    rows = [Earning(key="x", served=1, gas_wei=2), Earning(key="y", served=3)]
    assert compute_sum(rows) == Earning(key="total", served=4, gas_wei=2)
    assert [day_text(day) for day in (0, 1, 19_782, 20_000)] == ["earlier", "1970-01-02", "2024-02-29", "2024-10-04"]
