"""Attacks on providers and payers between receipt and acknowledgement, by the roles themselves: what each can cost at most.

Prices of the stage: 100 credits a prompt token, 1,000 a completion token; an answer costs 6,000, its quote 110,400.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from quiver import trace
from quiver.provider.channel import ProviderChannel
from quiver.receipts.log import ProviderLog
from quiver.values.ledger import ChannelState, RequestExit
from quiver.values.request import Failure, Final
from sim.store import MemoryStore
from tests.scenarios.stage import Stage
from tests.unit.receipts.histories import CHANNEL, History

FIRST_CREDIT = 130_000
PARAMS = msgspec.structs.replace(Stage().params, first_credit=FIRST_CREDIT, credit_limit_max=2 * FIRST_CREDIT)


def mute(stage):
    """The gateway takes answers and signs for none."""

    async def silent():
        """No word leaves."""

    stage.link().acknowledge = silent


def test_a_payer_that_never_acknowledges_costs_its_first_credit_at_most():
    """Loss: four answers, 24,000 credits, below the first credit of 130,000; then it is served no more."""

    async def story(stage):
        mute(stage)
        ends = [(await stage.ask(number))[-1] for number in range(1, 7)]
        # 4 x 6,000 are owed; one more quote of 110,400 would exceed the limit.
        assert [type(end) for end in ends] == [Final] * 4 + [Failure] * 2
        channel = stage.channel()
        assert channel.log.unacknowledged_credits == 24_000 <= FIRST_CREDIT == channel.limit
        assert {event.reason for event in stage.events.of(trace.ProviderAdmitted) if not event.admitted} == {"CREDIT"}

    Stage(params=PARAMS).play(story)


def test_a_payer_that_was_trusted_and_runs_costs_the_limit_it_had_earned():
    """Loss: what is unacknowledged when it stops, at most `credit_limit_max`; what it had signed for is claimed in its exit."""

    async def story(stage):
        for number in range(1, 4):
            assert isinstance((await stage.ask(number))[-1], Final)
            await stage.clock.sleep(1.0)
        signed = stage.channel().log.acknowledged.cum
        assert signed == 18_000
        mute(stage)
        number, end = 10, None
        while not isinstance(end, Failure):
            number += 1
            end = (await stage.ask(number))[-1]
        lost = stage.channel().log.unacknowledged_credits
        assert 0 < lost <= stage.channel().limit == 2 * FIRST_CREDIT
        leaves = RequestExit(sender=stage.gateway.signer.account, channel=stage.channel().state.channel)
        await stage.gateway.runtime.ledger.submit(leaves)
        await stage.clock.sleep(10.0)
        state = stage.contract.channel(stage.channel().state.channel)
        assert (state.exit_at_ms is not None, state.paid) == (True, signed)

    Stage(params=PARAMS).play(story)


def test_nothing_more_is_served_once_the_payer_wants_out():
    """Loss 0: a channel that is closing carries no new request."""

    async def story(stage):
        assert isinstance((await stage.ask(1))[-1], Final)
        leaves = RequestExit(sender=stage.gateway.signer.account, channel=stage.channel().state.channel)
        await stage.gateway.runtime.ledger.submit(leaves)
        await stage.clock.sleep(3.0)
        before = stage.channel().log.head.cum
        await stage.ask(2)
        assert stage.channel().log.head.cum == before

    Stage(params=PARAMS).play(story)


@pytest.mark.parametrize(
    ("amount", "refused"), [(940, None), (941, "940 credits are left in the channel, 941 are needed")]
)
def test_a_provider_serves_up_to_the_collateral_and_not_a_credit_beyond(amount, refused):
    """Loss 0: cum + quotes never exceed what is locked, so the contract's clamp never bites an honest provider."""
    history = History((10, 20), channel=CHANNEL)
    state = ChannelState(
        channel=CHANNEL, payer=history.payer.account, provider=history.provider.account,
        session=history.payer.session_address, locked=1000, paid=0,
    )  # fmt: skip
    channel = ProviderChannel(state, ProviderLog.load(MemoryStore(), history.terms), PARAMS)
    for receipt in history.receipts:
        channel.on_issued(receipt)
    channel.reserve(b"\x01" * 16, 30)
    # 1,000 locked, 30 owed, 30 quoted.
    assert channel.refusal(amount) == refused


def test_the_table_of_attacks_names_tests_that_are_there():
    root = Path(__file__).parents[2]
    text = (root / "docs" / "attacks.md").read_text("utf-8")
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", text)
    assert len(named) > 25
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (root / file).read_text("utf-8"), re.MULTILINE), (file, test)
    # Every story that is told to the contract is in the table.
    stories = re.findall(
        r"^def (test_\w+)\(court", (root / "tests/scenarios/test_attacks.py").read_text(), re.MULTILINE
    )
    assert len(stories) > 12 and set(stories) <= {test for _, test in named}
