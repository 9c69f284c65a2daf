"""Stories of clients with accounts: 100 credits a prompt token and 1,000 a completion token for the gateway, a quarter more for them.

An answer of 5 tokens to a prompt of 10 costs 6,000 and is sold for 7,500.
"""

from __future__ import annotations

import asyncio

import pytest

from quiver import trace
from quiver.errors import Busy, InsufficientCredit, WireCode
from quiver.gateway.budget import Budget, read_sales
from quiver.gateway.selling import Selling, Tariff
from quiver.gateway.till import Till
from quiver.values.request import Failure, Final, Principal, TokenChunk
from sim.clock import EPOCH_MS
from tests.scenarios.stage import MODEL, PRICE, Stage

ALICE = Principal(name="alice")
CEILING = Tariff(prompt=PRICE.prompt, completion=PRICE.completion, minimum_credits=PRICE.minimum_credits)
PLUS = Selling(margin_ppm=250_000, ceiling=CEILING)
# The most a request for 5 tokens may cost: 84 prompt and 7 completion tokens.
HOLD = (84 * 100 + 7 * 1_000) * 5 // 4
DAY = EPOCH_MS // 86_400_000


class Shop(Stage):
    """A stage whose gateway sells; `alice` has an account."""

    def open(self, selling=PLUS):
        till = self.gateway.service.till = Till(self.gateway.runtime, selling, ["alice"])
        return till.budget

    async def give(self, credits, *, number=1):
        budget = self.gateway.service.till.budget
        await self.gateway.store.commit(budget.grant(number.to_bytes(16, "big"), "alice", credits, at_ms=1))

    async def buy(self, number=1, *, principal=ALICE, leave_after=None, **request):
        """All events; `leave_after` chunks the client is gone."""
        events = []
        stream = self.gateway.service.handle(self.request(number, **{"max_tokens": 5, **request}), principal)
        async for event in stream:
            events.append(event)
            if leave_after is not None and len(events) == leave_after:
                await stream.aclose()
                break
        return events

    def durable(self):
        """What an account holds after a power cut now."""
        return Budget(self.gateway.store)


def test_an_answer_is_charged_once_with_its_margin_and_the_client_is_told():
    async def story(stage):
        budget = stage.open()
        await stage.give(100_000)
        final = (await stage.buy())[-1]
        assert (final.paid_credits, final.charged_credits) == (6_000, 7_500)
        # Durable when the client hears of it.
        assert stage.durable().balance("alice") == budget.balance("alice") == 92_500 and budget.held("alice") == 0
        (sales,) = read_sales(stage.gateway.store).values()
        assert (sales.requests, sales.prompt_tokens, sales.completion_tokens) == (1, 10, 5)
        assert (sales.sold, sales.cost) == (7_500, 6_000) and list(read_sales(stage.gateway.store)) == [(DAY, MODEL)]

    Shop().play(story)


def test_by_the_table_it_is_the_tables_price_whatever_the_provider_takes():
    async def story(stage):
        stage.open(Selling(tariffs={MODEL: Tariff(prompt=1_000_000, completion=20_000_000)}))
        await stage.give(1_000)
        assert (await stage.buy())[-1].charged_credits == 10 * 1 + 5 * 20

    Shop().play(story)


def test_who_cannot_pay_the_most_it_may_cost_is_turned_away_before_anybody_is_asked():
    async def story(stage):
        budget = stage.open()
        await stage.give(HOLD - 1)
        with pytest.raises(InsufficientCredit) as caught:
            await stage.buy()
        assert (caught.value.balance, caught.value.need) == (HOLD - 1, HOLD)
        assert [event.outcome for event in stage.events.of(trace.RequestFinished)] == ["rejected"]
        assert not stage.events.of(trace.RequestDispatched) and stage.gateway.service.admission.open == 0
        await stage.give(1, number=2)
        assert isinstance((await stage.buy(2))[-1], Final) and budget.balance("alice") == HOLD - 7_500

    Shop().play(story)


def test_requests_at_once_share_the_credit_and_none_of_them_overdraws_it():
    async def story(stage):
        budget = stage.open()
        await stage.give(2 * HOLD + 100)

        async def try_one(number):
            try:
                return (await stage.buy(number))[-1]
            except Busy as error:
                return error

        ends = await asyncio.gather(*(try_one(number) for number in range(1, 8)))
        served = [end for end in ends if isinstance(end, Final)]
        assert len(served) == 2 and all(isinstance(end, (Final, Busy)) for end in ends)
        assert "of them for its open requests" in str(next(end for end in ends if isinstance(end, Busy)))
        # Everything but what was charged is free again: there is room for one more.
        assert (budget.balance("alice"), budget.held("alice")) == (2 * HOLD + 100 - 2 * 7_500, 0)
        assert isinstance((await stage.buy(9))[-1], Final)

    Shop(slots=8, queue_max=8).play(story)


def test_who_leaves_in_the_middle_pays_for_what_came():
    async def story(stage):
        budget = stage.open()
        await stage.give(100_000)
        events = await stage.buy(leave_after=2)
        assert [type(event) for event in events] == [TokenChunk, TokenChunk]
        # The prompt as estimated and two tokens: 3,000 and a quarter.
        assert stage.durable().balance("alice") == budget.balance("alice") == 100_000 - 3_750
        assert budget.held("alice") == 0
        await stage.clock.sleep(2.0)
        # The provider billed what it had sent until it heard of it.
        assert stage.link().channel.log.head.cum >= 3_000

    Shop().play(story)


def test_who_leaves_before_the_first_token_pays_nothing():
    async def story(stage):
        budget = stage.open()
        await stage.give(100_000)
        task = asyncio.ensure_future(stage.buy())
        await stage.clock.sleep(0.3)
        assert budget.held("alice") == HOLD
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (budget.balance("alice"), budget.held("alice")) == (100_000, 0)
        assert not read_sales(stage.gateway.store)

    Shop().play(story)


def test_a_provider_that_fails_before_it_answers_is_not_on_the_clients_bill():
    async def story(stage):
        budget = stage.open()
        await stage.give(100_000)
        stage.typists[0].breaks_after = 0
        final = (await stage.buy())[-1]
        assert final.provider == stage.providers[1].peer_id and final.charged_credits == 7_500
        assert budget.balance("alice") == 92_500

    Shop(providers=2).play(story)


def test_a_broken_answer_costs_what_came_of_it():
    async def story(stage):
        budget = stage.open()
        await stage.give(100_000)
        stage.typists[0].breaks_after = 3
        failure = (await stage.buy())[-1]
        assert isinstance(failure, Failure) and failure.code == WireCode.BACKEND_FAILED
        assert failure.charged_credits == (10 * 100 + 3 * 1_000) * 5 // 4
        assert stage.durable().balance("alice") == budget.balance("alice") == 100_000 - 5_000

    Shop().play(story)


def test_no_client_pays_more_than_was_held_though_its_provider_was_dearer_than_the_ceiling():
    async def story(stage):
        cheap = Tariff(prompt=PRICE.prompt // 10, completion=PRICE.completion // 10)
        budget = stage.open(Selling(margin_ppm=0, ceiling=cheap))
        await stage.give(100_000)
        final = (await stage.buy())[-1]
        assert (final.paid_credits, final.charged_credits) == (6_000, (84 * 100 + 7 * 1_000) // 10)
        budget.validate()

    Shop().play(story)


def test_without_an_account_everything_is_as_if_nothing_were_sold():
    async def story(stage):
        stage.open()
        final = (await stage.buy(principal=Principal(name="anonymous")))[-1]
        assert isinstance(final, Final) and final.charged_credits is None
        assert not list(stage.gateway.store.scan("gateway_budgets")) and not read_sales(stage.gateway.store)

    Shop().play(story)


def test_a_power_cut_at_any_moment_charges_all_or_nothing_and_what_the_client_was_told():
    """The answer takes a second, its commit 2 ms: it is cut every 50 ms, and around its end every millisecond."""
    told = charged = cut_in_commit = 0
    cuts = [0.05 * step for step in range(18)] + [0.9 + 0.001 * step for step in range(120)]
    for at_s in cuts:

        async def story(stage, at_s=at_s):
            nonlocal told, charged, cut_in_commit
            stage.open()
            await stage.give(100_000)
            seen = []

            async def buy():
                async for event in stage.gateway.service.handle(stage.request(max_tokens=5), ALICE):
                    seen.append(event)

            task = asyncio.ensure_future(buy())
            await stage.clock.sleep(at_s)
            stage.gateway.crash()
            # What the disk holds now is all that is left; whatever the dead process would still do reaches it no more.
            budget, sales = stage.durable(), read_sales(stage.gateway.store)
            cut_in_commit += stage.gateway.service.till.budget.balance("alice") != budget.balance("alice")
            was_told = bool(seen) and isinstance(seen[-1], Final)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert budget.balance("alice") in (100_000, 92_500) and budget.held("alice") == 0
            assert sum(cell.sold for cell in sales.values()) == 100_000 - budget.balance("alice")
            if was_told:
                told += 1
                assert budget.balance("alice") == 92_500
            charged += budget.balance("alice") == 92_500

        Shop().play(story)
    assert 0 < told == charged < len(cuts) and cut_in_commit > 0
