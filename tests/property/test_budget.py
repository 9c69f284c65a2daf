"""Accounts under any number of requests at once, grants and crashes, against a bookkeeper that only adds up."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from quiver.errors import Busy, InsufficientCredit, UsageError
from quiver.gateway.budget import Budget, read_grants, read_sales
from quiver.gateway.selling import Usage
from quiver.ids import ModelId
from quiver.settlement.books import Books
from quiver.settlement.earnings import By, compute_earnings, compute_sum
from quiver.settlement.terms import Terms
from tests.examples import examples
from tests.property.test_receipts import PARAMS, Disk

NAMES = st.sampled_from(["alice", "bob"])
MODELS = st.sampled_from([ModelId(bytes([n]) * 32) for n in (1, 2)])
SEEN = dict.fromkeys(("charged", "insufficient", "busy", "taken back", "crashed with holds", "granted again"), 0)


class BudgetMachine(RuleBasedStateMachine):
    """`late` batches were handed to the disk and are not on it yet: a crash loses a tail of them."""

    def __init__(self):
        super().__init__()
        self.disk, self.late = Disk(), []
        self.budget = Budget(self.disk)
        self.open = []
        self.granted, self.charged, self.cost = {}, {}, 0
        "What the bookkeeper knows is durable, or will be if nothing crashes."
        self.grants = 0
        # Enough for some requests at once, not for all that come.
        for name in ("alice", "bob"):
            self.grant(name, 250)

    def commit(self, batch, undo):
        self.late.append((batch, undo))

    @rule(name=NAMES, amount=st.integers(-60, 300))
    def change(self, name, amount):
        self.grant(name, amount)

    def grant(self, name, amount):
        self.grants += 1
        grant_id = self.grants.to_bytes(16, "big")
        free = self.budget.balance(name) - self.budget.held(name)
        try:
            batch = self.budget.grant(grant_id, name, amount, at_ms=self.grants)
        except UsageError:
            assert amount == 0 or -amount > free
            return
        SEEN["taken back"] += amount < 0
        self.granted[name] = self.granted.get(name, 0) + amount
        self.commit(batch, lambda: self.granted.__setitem__(name, self.granted[name] - amount))
        assert self.budget.grant(grant_id, name, amount, at_ms=self.grants) == []

    @rule(name=NAMES, amount=st.integers(0, 120), edge=st.sampled_from(["", "", "", "beyond free", "beyond all"]))
    def hold(self, name, amount, edge):
        balance, held = self.budget.balance(name), self.budget.held(name)
        amount = {"beyond free": balance - held + 1, "beyond all": balance + 1}.get(edge, amount)
        try:
            self.open.append(self.budget.hold(name, amount))
        except InsufficientCredit as error:
            assert amount > balance and (error.balance, error.need) == (balance, amount)
            SEEN["insufficient"] += 1
        except Busy:
            assert balance >= amount > balance - held
            SEEN["busy"] += 1

    @rule(data=st.data(), model=MODELS, day=st.integers(1, 3), cost=st.integers(0, 50))
    def charge(self, data, model, day, cost):
        if not self.open:
            return
        hold = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        credits = data.draw(st.integers(0, hold.amount))
        batch = self.budget.charge(hold, credits, Usage(cost_credits=cost, delivered=True), model=model, day=day)
        self.charged[hold.account] = self.charged.get(hold.account, 0) + credits
        self.cost += cost
        SEEN["charged"] += credits > 0

        def undo():
            self.charged[hold.account] -= credits
            self.cost -= cost

        self.commit(batch, undo)
        for amount in (credits, 0):
            try:
                self.budget.charge(hold, amount, Usage(), model=model, day=day)
            except UsageError:
                continue
            assert False, "charged twice"
        self.budget.release(hold)

    @rule(data=st.data())
    def release(self, data):
        if self.open:
            hold = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            self.budget.release(hold)
            self.budget.release(hold)

    @rule()
    def flush(self):
        for batch, _ in self.late:
            self.disk.put(batch)
        self.late.clear()

    @rule(data=st.data())
    def crash(self, data):
        """Whatever was open is free again; of what was handed to the disk a beginning is on it."""
        kept = data.draw(st.integers(0, len(self.late)))
        for batch, _ in self.late[:kept]:
            self.disk.put(batch)
        for _, undo in reversed(self.late[kept:]):
            undo()
        SEEN["crashed with holds"] += bool(self.open)
        self.late.clear()
        self.open.clear()
        self.budget = Budget(self.disk)
        if self.grants and self.disk.get("gateway_grants", self.grants.to_bytes(16, "big")) is not None:
            assert self.budget.grant(self.grants.to_bytes(16, "big"), "alice", 5, at_ms=0) == []
            SEEN["granted again"] += 1

    @invariant()
    def adds_up(self):
        self.budget.validate()
        for name in ("alice", "bob"):
            assert self.budget.balance(name) == self.granted.get(name, 0) - self.charged.get(name, 0) >= 0
            assert self.budget.held(name) == sum(hold.amount for hold in self.open if hold.account == name)

    @invariant()
    def the_report_is_the_ledgers(self):
        """What is durable: sales, accounts and grants tell one sum, and so does every view of the report."""
        durable = Budget(self.disk)
        charged = sum(account.charged for account in durable.accounts.values())
        sales = read_sales(self.disk)
        assert sum(cell.sold for cell in sales.values()) == charged
        assert sum(cell.requests for cell in sales.values()) == sum(one.requests for one in durable.accounts.values())
        assert sum(one.amount for one in read_grants(self.disk)) == sum(
            one.granted for one in durable.accounts.values()
        )
        books = Books(account=b"\x01" * 20, terms=Terms.from_params(PARAMS))
        for by in By:
            total = compute_sum(compute_earnings([], books, by=by, pays=True, sales=sales))
            assert total.sold == charged and total.margin == total.sold - total.cost
            if not self.late:
                assert total.cost == self.cost and total.sold == sum(self.charged.values())


def test_no_account_pays_twice_or_more_than_was_held_or_than_it_has_whatever_crashes():
    run_state_machine_as_test(
        BudgetMachine,
        settings=settings(max_examples=examples(120), stateful_step_count=40, deadline=None, derandomize=True),
    )
    # A share of the examples need not meet everything; all of them do, whatever they are drawn from.
    assert all(SEEN.values()) or examples(120) < 120, SEEN
