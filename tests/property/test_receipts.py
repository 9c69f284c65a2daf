"""A provider's log and an aggregator's window through crashes, lost answers, repeats and closed epochs: each receipt counts once."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quiver.aggregator.window import LEAVES, Entry, Window, epoch_key, load_head
from quiver.errors import ReceiptMismatch
from quiver.params import Params
from quiver.receipts.checks import check_receipts
from quiver.receipts.log import ProviderLog
from quiver.values.ledger import ChannelState
from quiver.values.receipt import ChannelHead
from tests.examples import examples
from tests.unit.receipts.histories import History

PARAMS = Params(epoch_ms=1_000, receipts_batch_max=3)


class Disk:
    """The durable half of a store."""

    def __init__(self):
        self.tables = {}

    def get(self, table, key):
        return self.tables.get(table, {}).get(key)

    def scan(self, table, prefix=b""):
        return iter(sorted(row for row in self.tables.get(table, {}).items() if row[0].startswith(prefix)))

    def put(self, batch):
        for table, key, value in batch:
            rows = self.tables.setdefault(table, {})
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value


def stored_entries(disk, epoch):
    """Entries of an epoch as committed."""
    return [msgspec.msgpack.decode(row, type=Entry) for _, row in disk.scan(LEAVES, epoch_key(epoch))]


class Settlement(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.history = history = History(amounts=())
        self.state = ChannelState(
            channel=history.terms.channel, payer=history.payer.account, provider=history.provider.account,
            session=history.payer.session_address, locked=1 << 40, paid=0,
        )  # fmt: skip
        self.here, self.there = Disk(), Disk()
        self.log, self.window = ProviderLog(history.terms), Window(PARAMS)
        self.now_ms, self.counted, self.closed = 5_000, 0, {}

    # ---- the provider

    @rule(amount=st.integers(0, 50))
    def issue(self, amount):
        self.here.put(self.log.on_issued(self.history.add(amount)))

    @rule(data=st.data())
    def acknowledge(self, data):
        seq = data.draw(st.integers(0, len(self.history.receipts)))
        if seq:
            acknowledged = self.log.acknowledged
            batch = self.log.on_acknowledged(self.history.acknowledge(seq), receipts_batch_max=3)
            self.here.put(batch)
            assert self.log.acknowledged.seq == max(seq, acknowledged.seq)
            assert bool(batch) == (seq > acknowledged.seq)

    @precondition(lambda self: self.history.receipts)
    @rule()
    def refuse_what_was_never_issued(self):
        before = self.log.head, self.log.acknowledged
        ahead = self.history.add(7)
        at = self.history.acknowledge()
        self.history.receipts.pop()
        self.history.heads.pop()
        with pytest.raises(ReceiptMismatch):
            self.log.on_acknowledged(at, receipts_batch_max=3)
        assert (self.log.head, self.log.acknowledged) == before and ahead.body.seq == before[0].seq + 1

    @rule()
    def provider_restarts(self):
        before = self.log
        self.log = ProviderLog.load(self.here, self.history.terms)
        for name in ("head", "acknowledged", "last", "unacknowledged", "unacknowledged_credits"):
            assert getattr(self.log, name) == getattr(before, name)
        assert self.log.next_submission(1, self.state.session) == before.next_submission(1, self.state.session)
        assert self.log.totals.cells == before.totals.cells

    # ---- between them

    @rule(is_answer_lost=st.booleans())
    def submit(self, is_answer_lost):
        batch = self.log.next_submission(1, self.state.session)
        if batch is None:
            return
        done = self.take(batch.previous, batch.receipts, batch.acknowledgement)
        assert done.accepted + done.duplicates == len(batch.receipts)
        self.counted += done.accepted
        if not is_answer_lost:
            self.here.put(self.log.on_ingested(batch))

    @rule(amount=st.integers(0, 50), is_answer_lost=st.booleans())
    def serve_and_submit(self, amount, is_answer_lost):
        self.issue(amount)
        self.here.put(self.log.on_acknowledged(self.history.acknowledge(), receipts_batch_max=3))
        self.submit(is_answer_lost)

    @rule(data=st.data())
    def submit_an_old_run_again(self, data):
        known = self.window.head(self.state.channel)
        if known is None:
            return
        end = data.draw(st.integers(1, known.seq))
        start = data.draw(st.integers(0, end - 1))
        entries = [self.window.entries(epoch) for epoch in range(100)]
        done = self.take(self.history.heads[start], self.history.receipts[start:end], self.history.acknowledge(end))
        assert (done.accepted, done.duplicates) == (0, end - start)
        assert [self.window.entries(epoch) for epoch in range(100)] == entries

    @rule(data=st.data())
    def submit_another_history(self, data):
        known = self.window.head(self.state.channel)
        if known is None:
            return
        fork = History(amounts=[receipt.body.amount for receipt in self.history.receipts[: known.seq]], salt=b"other")
        before = self.window.head(self.state.channel)
        with pytest.raises(ReceiptMismatch, match="^fork"):
            self.take(ChannelHead(), fork.receipts, fork.acknowledge(), heads=fork.heads[1:])
        assert self.window.head(self.state.channel) == before

    def take(self, previous, receipts, acknowledgement, heads=None):
        receipts = tuple(receipts)
        done = self.window.ingest(
            self.state, previous, receipts, heads or check_receipts(receipts, previous, self.history.terms)[0],
            acknowledgement, utc_ms=self.now_ms,
            head_at=lambda epoch, channel, seq: load_head(self.there, epoch, channel, seq),
        )  # fmt: skip
        self.there.put(done.batch)
        return done

    # ---- the aggregator

    @rule()
    def aggregator_restarts(self):
        before = self.window
        self.window = Window.load(self.there, PARAMS)
        channel = self.state.channel
        assert self.window.head(channel) == before.head(channel)
        for epoch in range(self.now_ms // 1_000 + 2):
            assert self.window.entries(epoch) == before.entries(epoch)

    @rule(ms=st.integers(-1_500, 3_000))
    def time_passes(self, ms):
        self.now_ms = max(self.now_ms + ms, 0)

    @rule(clock_back_ms=st.sampled_from([0, 0, 1_000]))
    def close(self, clock_back_ms):
        self._close()
        self.now_ms = max(self.now_ms - clock_back_ms, 0)

    def _close(self):
        for epoch in self.window.due_epochs(self.now_ms):
            assert epoch not in self.closed, "closed once"
            self.closed[epoch] = self.window.entries(epoch)
            self.there.put(self.window.close(epoch))

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def each_receipt_counts_once(self):
        self.log.validate()
        cells = self.log.totals.cells.values()
        assert sum(cell.amount for cell in cells) == self.log.head.cum
        assert sum(cell.receipts for cell in cells) == self.log.head.seq
        self.window.validate()
        known = self.window.head(self.state.channel)
        assert self.counted == (0 if known is None else known.seq)
        assert known is None or known == self.history.heads[known.seq]
        kept = [key for key, _ in self.there.scan("aggregator_receipts")]
        assert len(kept) == self.counted and len({key[-8:] for key in kept}) == self.counted
        # What was closed is what is on the disk, and stays so.
        for epoch, entries in self.closed.items():
            assert stored_entries(self.there, epoch) == entries


TestSettlement = Settlement.TestCase
TestSettlement.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)


def test_an_epoch_still_open_when_its_channel_moves_on_is_there_after_a_restart():
    """Closing waits for a ledger that is away; meanwhile the next epoch begins, and then the power goes."""
    story = Settlement()
    story.start()
    story.serve_and_submit(amount=5, is_answer_lost=False)
    story.now_ms += 1_000
    story.serve_and_submit(amount=6, is_answer_lost=False)
    story.aggregator_restarts()
    assert [[entry.leaf.cum for entry in story.window.entries(epoch)] for epoch in (5, 6)] == [[5], [11]]
    assert story.window.due_epochs(7_000) == [5, 6]
