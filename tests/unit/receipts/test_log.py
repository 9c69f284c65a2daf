"""The durable end of a channel: what a restart remembers, and how receipts leave it."""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import ReceiptMismatch, UsageError
from quiver.receipts.log import PayerLog, ProviderLog, payer_channels, provider_channels
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
