"""Which epoch a receipt belongs to, and what counts as a duplicate, a gap or a fork."""

from __future__ import annotations

import pytest

from quiver.aggregator.window import Window, load_head
from quiver.errors import ReceiptMismatch
from quiver.ids import ChannelId
from quiver.params import Params
from quiver.values.ledger import ChannelState
from sim.loop import Environment
from sim.store import MemoryStore
from tests.unit.receipts.histories import History

PARAMS = Params.minimal()  # epochs of 10,000 ms


class Bench:
    """A window over a store."""

    def __init__(self):
        self.store = MemoryStore(fsync_s=0)
        self.window = Window.load(self.store, PARAMS)

    def write(self, batch):
        Environment().run_coroutine(self.store.commit(batch))
        self.window.validate()

    def restart(self):
        self.window = Window.load(self.store, PARAMS)
        self.window.validate()

    def ingest(self, history, first, last, *, at_ms):
        """Receipts first..last of a history, as verified."""
        state = ChannelState(
            channel=history.terms.channel, payer=history.terms.payer, provider=history.provider.account,
            session=history.payer.session_address, locked=1000, paid=0,
        )  # fmt: skip
        done = self.window.ingest(
            state, history.heads[first - 1], tuple(history.receipts[first - 1 : last]), history.heads[first : last + 1],
            history.acknowledge(last), utc_ms=at_ms,
            head_at=lambda epoch, channel, seq: load_head(self.store, epoch, channel, seq),
        )  # fmt: skip
        self.write(done.batch)
        return done.epoch, done.accepted, done.duplicates


def test_the_epoch_is_the_clocks_at_ingest_and_the_last_state_is_the_leaf():
    bench, history = Bench(), History(amounts=(10, 20, 30))
    assert bench.ingest(history, 1, 2, at_ms=39_999) == (3, 2, 0)
    assert bench.ingest(history, 3, 3, at_ms=39_999) == (3, 1, 0)
    (entry,) = bench.window.entries(3)
    assert (entry.leaf.seq, entry.leaf.cum, entry.leaf.head) == (3, 60, history.heads[3].head)
    assert bench.window.due_epochs(39_999) == []
    assert bench.window.due_epochs(40_000) == [3]


def test_a_closed_epoch_takes_nothing_even_when_the_clock_goes_back():
    bench, history = Bench(), History(amounts=(10, 20))
    bench.ingest(history, 1, 1, at_ms=30_000)
    bench.write(bench.window.close(3))
    assert bench.ingest(history, 2, 2, at_ms=25_000) == (4, 1, 0)
    bench.restart()
    assert bench.window.epoch_at(0) == 4
    assert [entry.leaf.seq for entry in bench.window.entries(4)] == [2]
    assert bench.window.entries(3) == []


def test_repeated_and_overlapping_batches_count_each_receipt_once():
    bench, history = Bench(), History(amounts=(1, 2, 3, 4, 5))
    assert bench.ingest(history, 1, 3, at_ms=0) == (0, 3, 0)
    assert bench.ingest(history, 1, 3, at_ms=50_000) == (0, 0, 3)
    assert bench.ingest(history, 1, 2, at_ms=50_000) == (0, 0, 2)
    assert bench.ingest(history, 2, 5, at_ms=50_000) == (5, 2, 2)
    assert bench.window.head(history.terms.channel) == history.heads[5]


def test_a_gap_is_refused_but_a_channel_may_be_met_in_its_middle():
    history = History(amounts=(1, 2, 3, 4))
    bench = Bench()
    assert bench.ingest(history, 2, 2, at_ms=0) == (0, 1, 0)
    with pytest.raises(ReceiptMismatch, match="^gap: we hold receipts up to 2, the batch starts after 3"):
        bench.ingest(history, 4, 4, at_ms=0)
    bench.window.validate()
    assert bench.ingest(history, 3, 4, at_ms=0) == (0, 2, 0)


def test_another_history_of_the_same_channel_is_a_fork():
    history, other = History(amounts=(1, 2, 3)), History(amounts=(1, 2, 3), salt=b"other")
    bench = Bench()
    bench.ingest(history, 1, 2, at_ms=0)
    for first, last in ((1, 3), (1, 2), (1, 1), (3, 3)):
        with pytest.raises(ReceiptMismatch, match="^fork"):
            bench.ingest(other, first, last, at_ms=0)
    assert bench.window.head(history.terms.channel) == history.heads[2]


def test_a_restart_remembers_heads_and_open_entries():
    bench = Bench()
    histories = [History(amounts=(5, 6), channel=ChannelId(bytes([n]) * 32)) for n in range(1, 4)]
    for history in histories:
        bench.ingest(history, 1, 1, at_ms=10_000)
    bench.ingest(histories[0], 2, 2, at_ms=20_000)
    before = {epoch: sorted(bench.window.entries(epoch), key=lambda e: e.leaf.channel) for epoch in (1, 2)}
    bench.restart()
    assert {epoch: sorted(bench.window.entries(epoch), key=lambda e: e.leaf.channel) for epoch in (1, 2)} == before
    assert bench.ingest(histories[0], 1, 2, at_ms=20_000) == (2, 0, 2)
