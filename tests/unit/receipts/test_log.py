"""The durable end of a channel: what a restart remembers, and how receipts leave it."""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import ReceiptMismatch, UsageError
from quiver.receipts.log import PayerLog, ProviderLog, issued_receipts, payer_channels, provider_channels
from quiver.values.receipt import ChannelHead
from sim.loop import Environment
from sim.store import MemoryStore
from tests.unit.receipts.histories import History


class Disk:
    """A store, and what it holds after each batch."""

    def __init__(self):
        self.store = MemoryStore(fsync_s=0)

    def write(self, batch):
        Environment().run_coroutine(self.store.commit(batch))


def test_a_provider_remembers_its_receipts_and_the_last_acknowledgement():
    history, disk = History(amounts=(10, 20, 30)), Disk()
    log = ProviderLog.load(disk.store, history.terms)
    for receipt in history.receipts:
        disk.write(log.on_issued(receipt))
        log.validate()
    disk.write(log.on_acknowledged(history.acknowledge(2), receipts_batch_max=100))
    again = ProviderLog.load(disk.store, history.terms)
    again.validate()
    assert (again.head, again.acknowledged) == (history.heads[3], history.heads[2])
    assert (again.unacknowledged, again.unacknowledged_credits) == ((history.receipts[2],), 30)
    assert provider_channels(disk.store) == [history.terms]


def test_an_older_acknowledgement_changes_nothing_and_one_of_another_history_is_refused():
    history, log = History(amounts=(10, 20)), ProviderLog(History().terms)
    for receipt in history.receipts:
        log.on_issued(receipt)
    log.on_acknowledged(history.acknowledge(2), receipts_batch_max=100)
    assert log.on_acknowledged(history.acknowledge(1), receipts_batch_max=100) == []
    longer = History(amounts=(10, 20, 30))
    with pytest.raises(ReceiptMismatch, match="^ack_wrong_seq"):
        log.on_acknowledged(longer.acknowledge(3), receipts_batch_max=100)
    log.on_issued(longer.receipts[2])
    other = History(amounts=(10, 20, 30), salt=b"other")
    with pytest.raises(ReceiptMismatch, match="^ack_wrong_head"):
        log.on_acknowledged(other.acknowledge(3), receipts_batch_max=100)
    assert log.acknowledged == history.heads[2]


def test_batches_end_at_acknowledgements_and_are_forgotten_once_ingested():
    history, disk = History(amounts=(1,) * 6), Disk()
    log = ProviderLog.load(disk.store, history.terms)
    session = history.payer.session_address
    assert log.next_submission(1, session) is None
    for seq, receipt in enumerate(history.receipts, start=1):
        disk.write(log.on_issued(receipt))
        disk.write(log.on_acknowledged(history.acknowledge(seq), receipts_batch_max=4))
        log.validate()
    first = log.next_submission(1, session)
    assert ([r.body.seq for r in first.receipts], first.acknowledgement.seq, first.previous) == (
        [1, 2, 3, 4],
        4,
        ChannelHead(),
    )
    disk.write(log.on_ingested(first))
    log = ProviderLog.load(disk.store, history.terms)
    log.validate()
    second = log.next_submission(2, session)
    assert ([r.body.seq for r in second.receipts], second.previous) == ([5, 6], history.heads[4])
    disk.write(log.on_ingested(second))
    assert log.on_ingested(first) == []
    assert log.next_submission(3, session) is None
    assert list(disk.store.scan("provider_receipts")) == []
    assert ProviderLog.load(disk.store, history.terms).head == history.heads[6]


def test_proven_receipts_stay_to_be_shown_and_their_number_is_bounded(monkeypatch):
    monkeypatch.setattr("quiver.receipts.log.PROVEN_KEPT", 3)
    history, disk = History(amounts=(1,) * 6), Disk()
    log = ProviderLog.load(disk.store, history.terms)
    for seq, receipt in enumerate(history.receipts, start=1):
        disk.write(log.on_issued(receipt))
        disk.write(log.on_acknowledged(history.acknowledge(seq), receipts_batch_max=2))
        if seq % 2 == 0:
            disk.write(log.on_ingested(log.next_submission(seq, history.payer.session_address)))
            held = [row.body.seq for row in issued_receipts(disk.store, history.terms.channel)]
            assert held == list(range(max(1, seq - 2), seq + 1))
            again = ProviderLog.load(disk.store, history.terms)
            again.validate()
            assert again.head == history.heads[seq] and again.next_submission(9, history.payer.session_address) is None
    shown = issued_receipts(disk.store, history.terms.channel)
    assert [(row.body, row.signature, row.head) for row in shown] == [
        (history.receipts[at].body, history.receipts[at].signature, history.heads[at + 1].head) for at in (3, 4, 5)
    ]


def test_a_blank_log_takes_a_channel_over_where_an_acknowledgement_says_it_stands_and_issues_no_seq_twice():
    history, disk = History(amounts=(10, 20, 30)), Disk()
    log = ProviderLog.load(disk.store, history.terms)
    disk.write(log.on_acknowledged(history.acknowledge(1), receipts_batch_max=100))
    # Another place knew more: the last word counts, as long as nothing was issued since.
    disk.write(log.on_acknowledged(history.acknowledge(3), receipts_batch_max=100))
    log = ProviderLog.load(disk.store, history.terms)
    log.validate()
    assert log.head == log.acknowledged == history.heads[3] and log.next_submission(1, b"") is None
    with pytest.raises(ReceiptMismatch, match="^seq_not_next"):
        log.on_issued(history.receipts[2])
    disk.write(log.on_issued(history.add(40)))
    ahead = History(amounts=(10, 20, 30, 40, 50))
    for held in (log, ProviderLog.load(disk.store, history.terms)):
        assert held.head == history.heads[4] and held.unacknowledged_credits == 40
        with pytest.raises(ReceiptMismatch, match="^ack_wrong_seq"):
            held.on_acknowledged(ahead.acknowledge(5), receipts_batch_max=100)
    # What is lost before it keeps the aggregator from taking it; then its receipts go, the acknowledgement stays.
    disk.write(log.on_acknowledged(history.acknowledge(4), receipts_batch_max=100))
    batch = log.next_submission(1, history.payer.session_address)
    assert batch.previous == history.heads[3]
    disk.write(log.on_unsubmittable(batch))
    assert log.next_submission(2, history.payer.session_address) is None and log.last == history.acknowledge(4)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"channel": bytes(32)}, "ack_wrong_channel"), ({"cum": 9}, "ack_wrong_cum"), ({"seq": 1 << 63}, "ack_wrong_cum")],
)
def test_what_cannot_be_where_a_channel_stands_is_not_taken_over(change, name):
    history = History(amounts=(10, 20))
    log = ProviderLog(history.terms)
    log.on_acknowledged(history.acknowledge(1), receipts_batch_max=100)
    with pytest.raises(ReceiptMismatch, match=f"^{name}"):
        log.on_acknowledged(msgspec.structs.replace(history.acknowledge(2), **change), receipts_batch_max=100)
    assert log.head == history.heads[1]


def test_a_payer_resumes_at_its_last_acknowledgement_and_takes_the_rest_again():
    history, disk = History(amounts=(10, 20, 30)), Disk()
    log = PayerLog.load(disk.store, history.terms)
    log.on_receipt(history.receipts[0])
    disk.write(log.on_signed(history.acknowledge(1)))
    log.on_receipt(history.receipts[1])
    again = PayerLog.load(disk.store, history.terms)
    assert (again.head, again.last) == (history.heads[1], history.acknowledge(1))
    assert again.on_receipt(history.receipts[1]) == history.heads[2]
    with pytest.raises(ReceiptMismatch, match="^seq_not_next"):
        again.on_receipt(history.receipts[1])
    with pytest.raises(ReceiptMismatch, match="^ack_wrong_seq"):
        again.on_signed(history.acknowledge(3))
    assert [terms for _, terms in payer_channels(disk.store)] == [history.terms]


def test_a_store_of_other_terms_is_an_operators_error():
    history, disk = History(), Disk()
    disk.write(ProviderLog.load(disk.store, history.terms).on_issued(history.receipts[0]))
    with pytest.raises(UsageError, match="other terms"):
        ProviderLog.load(disk.store, msgspec.structs.replace(history.terms, chain_id=1))
