"""A gateway's channels on the simulated ledger: opened once, topped up, left, never more than the limit."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from msgspec.structs import replace

from quiver.errors import SettlementError, Unavailable
from quiver.gateway.purse import Purse
from quiver.gateway.topup import TopUpPolicy
from quiver.params import Params
from quiver.runtime import Nursery
from quiver.trace import SettlementWarned
from quiver.values.ledger import FinishExit, OpenChannel, RequestExit, TopUp
from quiver.values.request import Failure, Final
from tests.scenarios.stage import MODEL, Stage

SMALL = Params(first_credit=1_000_000, channel_deposit_credits=30_000, load_refresh_s=1_000.0)


def of(stage, kind):
    return [event.transaction for event in stage.chain.events if isinstance(event.transaction, kind)]


def offer(stage, provider=0):
    return stage.gateway.service.table.offer(stage.providers[provider].peer_id, MODEL, stage.clock.now())


def test_a_channel_is_opened_once_for_each_provider():
    async def story(stage):
        assert sorted(opened.provider for opened in of(stage, OpenChannel)) == sorted(
            node.signer.account for node in stage.providers
        )
        await stage.gateway.service.pool.prepare(MODEL)
        assert len(of(stage, OpenChannel)) == 2

    Stage(providers=2).play(story)


def test_two_providers_of_one_owner_have_a_channel_each():
    """The id of a channel is made of payer, payout and nonce; these two share the payout."""

    async def story(stage):
        assert len({opened.nonce for opened in of(stage, OpenChannel)}) == len(stage.gateway.service.purse.links) == 2
        for number, node in enumerate(stage.providers, start=1):
            stage.gateway.policy.order.sort(key=lambda peer, first=node.peer_id: peer != first)
            assert (await stage.ask(number))[-1].provider == node.peer_id

    stage = Stage(providers=2)
    for node in stage.providers:
        node.signer.account = stage.providers[0].signer.account
    stage.play(story)


def test_a_crash_between_reserving_a_channel_and_opening_it_binds_one_deposit(monkeypatch):
    """The row is durable before the ledger is asked; whoever starts again asks for the same channel."""

    async def story(stage):
        purse, ledger = stage.gateway.service.purse, type(stage.gateway.runtime.ledger)
        await stage.gateway.store.commit([("gateway_channels", stage.providers[0].peer_id, None)])
        link = stage.link()
        link._stream.reset(0)
        await stage.clock.sleep(0.5)
        submit = ledger.submit

        async def power_off(self, transaction):
            raise Unavailable("power off")

        monkeypatch.setattr(ledger, "submit", power_off)
        async with Nursery() as nursery:
            with pytest.raises(Unavailable):
                await purse.connect(offer(stage), nursery)
        row = stage.gateway.store.get("gateway_channels", stage.providers[0].peer_id)
        monkeypatch.setattr(ledger, "submit", submit)
        for _ in range(2):
            await stage.gateway.service.pool.prepare(MODEL)
        assert stage.gateway.store.get("gateway_channels", stage.providers[0].peer_id) == row
        # The first one, and the one whose row survived.
        assert [opened.nonce for opened in of(stage, OpenChannel)] == [0, 1]
        assert isinstance((await stage.ask())[-1], Final)

    Stage().play(story)


def test_a_refused_deposit_is_told_as_nobodys_fault_and_leaves_no_link():
    async def story(stage):
        poor = replace(offer(stage), provider=b"\x01" * 38, payout=b"\x02" * 20)
        purse = stage.gateway.service.purse
        purse.runtime = _with_deposit(stage, 10**12)
        async with Nursery() as nursery:
            with pytest.raises(SettlementError) as caught:
                await purse.connect(poor, nursery)
        assert caught.value.reason == "insufficient_balance"
        assert purse.link(poor.provider) is None and len(purse.links) == 1

    Stage().play(story)


def _with_deposit(stage, credits):
    runtime = stage.gateway.runtime
    return dataclasses.replace(runtime, params=replace(runtime.params, channel_deposit_credits=credits))


def test_no_more_links_than_the_limit():
    async def story(stage):
        purse = stage.gateway.service.purse
        assert purse.is_full and len(purse.links) == 2
        linked = set(purse.links)
        (left,) = [number for number, node in enumerate(stage.providers) if node.peer_id not in linked]
        async with Nursery() as nursery:
            with pytest.raises(Unavailable, match="all 2 channels are in use"):
                await purse.connect(offer(stage, left), nursery)
        assert set(purse.links) == linked and len(of(stage, OpenChannel)) == 2

    Stage(providers=3, params=replace(Params(), channels_max=2)).play(story)


def test_a_channel_that_runs_low_is_topped_up_once_while_requests_go_on():
    async def story(stage):
        # Each costs 6,000 of 30,000: after the third, less than half is left.
        for number in range(1, 4):
            assert isinstance((await stage.ask(number, max_tokens=5))[-1], Final)
        await asyncio.gather(*(stage.ask(number, max_tokens=5) for number in range(4, 6)))
        await stage.clock.sleep(1.0)
        assert len(of(stage, TopUp)) == 1 and of(stage, TopUp)[0].amount == 30_000
        assert stage.link().channel.state.locked == 60_000
        assert stage.link().channel.available == 60_000 - stage.link().channel.log.head.cum

    Stage(slots=4, params=SMALL).play(story)


def test_what_the_operator_keeps_back_is_not_locked_and_the_operator_is_told_once():
    async def story(stage):
        # 10^9 credits less the opening; a second deposit would leave less than the floor.
        purse, account = stage.gateway.service.purse, stage.gateway.signer.account
        purse.top_up = TopUpPolicy(balance_floor=10**9 - 59_999)
        for number in range(1, 4):
            assert isinstance((await stage.ask(number, max_tokens=5))[-1], Final)
            await stage.clock.sleep(1.0)
        # 12,000 are left, 15,400 are the most that a further one may cost: it finds the channel low once more.
        assert isinstance((await stage.ask(4, max_tokens=5))[-1], Failure)
        assert of(stage, TopUp) == [] and stage.contract.balance(account) == 10**9 - 30_000
        (warned,) = stage.events.of(SettlementWarned)
        assert "30000 credits are to be locked, but of 999970000 free ones 999940001 must stay" in warned.detail
        assert purse.concerns.health == warned.detail
        purse.top_up = TopUpPolicy(balance_floor=10**9 - 60_000, amount=20_000)
        assert isinstance((await stage.ask(5, max_tokens=5))[-1], Failure)
        await stage.clock.sleep(1.0)
        assert [top_up.amount for top_up in of(stage, TopUp)] == [20_000]
        assert purse.concerns.health is None
        assert isinstance((await stage.ask(6, max_tokens=5))[-1], Final)

    Stage(slots=4, params=SMALL).play(story)


def test_a_days_limit_holds_across_a_crash_and_counts_opening_channels():
    async def story(stage):
        purse = stage.gateway.service.purse
        limit = TopUpPolicy(daily_max_credits=60_000)
        purse.top_up = limit
        for number in range(1, 4):
            await stage.ask(number, max_tokens=5)
        await stage.clock.sleep(1.0)
        assert stage.link().channel.state.locked == 60_000
        # A gateway that starts again remembers the day.
        again = Purse(stage.gateway.runtime)
        again.top_up = limit
        async with Nursery() as nursery:
            with pytest.raises(Unavailable, match="60000 were today already, at most 60000 are allowed"):
                await again.connect(replace(offer(stage), provider=b"\x01" * 38, payout=b"\x02" * 20), nursery)
        assert len(of(stage, OpenChannel)) == len(of(stage, TopUp)) == 1

    Stage(slots=4, params=SMALL).play(story)


def test_what_the_ledger_refused_or_never_heard_of_is_not_counted_against_the_day(monkeypatch):
    async def story(stage):
        purse, ledger = stage.gateway.service.purse, type(stage.gateway.runtime.ledger)
        purse.top_up = TopUpPolicy(daily_max_credits=60_000)
        submit = ledger.submit
        for error in (Unavailable("nobody answers"), SettlementError("reverted")):

            async def fail(self, transaction, error=error):
                raise error

            monkeypatch.setattr(ledger, "submit", fail)
            for number in range(1, 5):
                await stage.ask(number + 10 * isinstance(error, Unavailable), max_tokens=1)
            await stage.clock.sleep(1.0)
        assert of(stage, TopUp) == [] and "could not be locked in a channel: reverted" in purse.concerns.health
        monkeypatch.setattr(ledger, "submit", submit)
        await stage.ask(30, max_tokens=5)
        await stage.clock.sleep(1.0)
        assert len(of(stage, TopUp)) == 1 and purse.concerns.health is None

    Stage(slots=4, params=SMALL).play(story)


def test_a_quote_the_channel_cannot_carry_is_busy_not_a_fault():
    async def story(stage):
        (failure,) = await stage.ask(max_tokens=100)
        # 84 prompt tokens at 100 and 102 completion tokens at 1,000 are 110,400 credits.
        assert isinstance(failure, Failure) and failure.retry_after_s is not None
        assert stage.link().up and stage.link().channel.available == 30_000
        assert not stage.gateway.service.table.is_ejected(stage.providers[0].peer_id, stage.clock.now())

    Stage(params=SMALL).play(story)


def test_an_abandoned_channel_is_asked_back_once_and_closed_after_its_delay():
    async def story(stage):
        purse, channel = stage.gateway.service.purse, stage.link().channel.state.channel
        await stage.gateway.store.commit([("gateway_exits", channel, b"")])
        for _ in range(3):
            await purse.leave()
        assert len(of(stage, RequestExit)) == 1 and not of(stage, FinishExit)
        await stage.clock.sleep(stage.params.exit_delay_s)
        for _ in range(3):
            await purse.leave()
        assert len(of(stage, FinishExit)) == 1 and stage.contract.channel(channel).closed
        assert not list(stage.gateway.store.scan("gateway_exits"))
        assert stage.contract.balance(stage.gateway.signer.account) == 10**9

    Stage(params=replace(Params(), exit_delay_s=20.0)).play(story)


def test_a_channel_the_ledger_never_saw_is_not_left_for_ever():
    async def story(stage):
        await stage.gateway.store.commit([("gateway_exits", b"\x01" * 32, b"")])
        await stage.gateway.service.purse.leave()
        assert not list(stage.gateway.store.scan("gateway_exits")) and not of(stage, RequestExit)

    Stage().play(story)
