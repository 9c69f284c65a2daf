"""The report of earnings against the contract: whatever happened, each row adds up and the sums are the ledger's."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from quiver.ids import ChannelId, ModelId
from quiver.receipts.totals import Totals
from quiver.settlement.books import Books
from quiver.settlement.earnings import By, ChannelReport, compute_earnings, compute_sum
from quiver.settlement.terms import Terms
from tests.examples import examples
from tests.property.test_contract import ACCOUNTS, PARAMS, ContractMachine

MODELS = [ModelId(bytes([n]) * 32) for n in (1, 2)]


SEEN = dict.fromkeys(("served", "owed", "claimed", "unclaimed", "at_risk", "lost"), 0)


class EarningsMachine(ContractMachine):
    """Every transaction of the contract's machine; receipts and acknowledgements by hand."""

    def __init__(self):
        super().__init__()
        self.books = {account: Books(account=account, terms=Terms.from_params(PARAMS)) for account in ACCOUNTS}
        self.cells: dict[ChannelId, dict] = {}
        self.signed: dict[ChannelId, int] = {}

    def send(self, transaction):
        event = super().send(transaction)
        if event is not None:
            for books in self.books.values():
                books.read([event])
        return event

    @rule(data=st.data(), day=st.integers(1, 3), model=st.sampled_from(MODELS), amount=st.integers(0, 40))
    def serve(self, data, day, model, amount):
        channel = data.draw(st.sampled_from(self.channels[1:]))
        cells = self.cells.setdefault(channel, {})
        cells[day, model] = cells.get((day, model), Totals()).plus(Totals(receipts=1, amount=amount))
        served = sum(cell.amount for cell in cells.values())
        self.signed[channel] = data.draw(st.integers(self.signed.get(channel, 0), served))

    def reports(self, account):
        for state in self.contract.channel_states():
            if state.provider == account:
                cells = self.cells.get(state.channel, {})
                yield ChannelReport(
                    channel=state.channel, peer=state.payer.hex(), cells=cells,
                    served=sum(cell.amount for cell in cells.values()),
                    acknowledged=self.signed.get(state.channel, 0),
                )  # fmt: skip

    @invariant()
    def sums_are_the_ledgers(self):
        for account, books in self.books.items():
            reports = list(self.reports(account))
            states = {state.channel: state for state in self.contract.channel_states() if state.provider == account}
            paid = sum(state.paid for state in states.values() if not state.closed)
            sums = set()
            for by in By:
                rows = compute_earnings(reports, books, by=by)
                for row in rows:
                    assert row.served == row.claimed + row.unclaimed + row.owed + row.lost
                    assert row.acknowledged >= row.claimed + row.unclaimed
                    assert 0 <= row.at_risk <= row.owed + row.unclaimed
                    assert min(row.served, row.owed, row.claimed, row.unclaimed, row.lost) >= 0
                sums.add(compute_sum(rows))
            (total,) = sums
            for name in SEEN:
                SEEN[name] += getattr(total, name) > 0
            # A closed channel's `locked` equals its `paid` in the contract, refund included: the books keep them apart.
            closed = sum(books.channels[channel].paid for channel, state in states.items() if state.closed)
            assert total.claimed == total.net == paid + closed
            for channel, state in states.items():
                book = books.channels[channel]
                assert (book.closed, book.exit_at_ms) == (state.closed, state.exit_at_ms)
                if not state.closed:
                    assert (book.locked, book.paid) == (state.locked, state.paid)
                else:
                    assert book.paid + book.refunded == book.locked == state.locked + book.refunded
            assert sum(book.paid for book in books.channels.values()) == self.claimed_in_all()

    def claimed_in_all(self):
        """By the second bookkeeper, who shares no code with the report."""
        return sum(book.paid for book in self.bookkeeper.channels.values())


def test_whatever_happens_the_rows_add_up_to_the_ledger():
    run_state_machine_as_test(
        EarningsMachine,
        settings=settings(max_examples=examples(60), stateful_step_count=40, deadline=None, derandomize=True),
    )
    assert all(SEEN.values()), SEEN
