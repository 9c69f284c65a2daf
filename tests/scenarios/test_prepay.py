"""A client with a chain account of its own prepays: a channel of 100,000 credits to the gateway's account."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from quiver.errors import RequestRejected, SettlementError, Unavailable
from quiver.gateway.budget import Budget, read_grants
from quiver.gateway.prepay import Prepayments
from quiver.identity.signing import ack_domain
from quiver.ids import compute_channel_id
from quiver.receipts.checks import ChannelTerms
from quiver.receipts.signatures import sign_acknowledgement
from quiver.runtime import Nursery
from quiver.values.ledger import ClaimDirect, Deposit, OpenChannel
from quiver.values.receipt import ChannelHead
from sim.clock import EPOCH_MS
from tests.scenarios.stage import CHAIN_ID, HUB, Stage

LOCKED = 100_000


class Customer:
    """Opens channels, signs for what it pays in."""

    def __init__(self, stage):
        self.stage, self.signer, self.nonce = stage, stage.make_signer("customer"), 0
        self.apply(Deposit(sender=self.signer.account, amount=10 * LOCKED))

    def apply(self, transaction):
        self.stage.chain.events.append(self.stage.contract.apply(transaction, EPOCH_MS))

    def open(self, provider=None):
        provider = provider or self.stage.gateway.signer.account
        self.apply(
            OpenChannel(
                sender=self.signer.account, provider=provider, session=self.signer.session_address, amount=LOCKED,
                nonce=self.nonce,
            )
        )  # fmt: skip
        self.nonce += 1
        return compute_channel_id(ack_domain(CHAIN_ID, HUB), self.signer.account, provider, self.nonce - 1)

    async def sign(self, channel, cum, *, signer=None):
        terms = ChannelTerms(
            chain_id=CHAIN_ID, contract=HUB, channel=channel, provider_key=bytes(32), payer=self.signer.account
        )
        return await sign_acknowledgement(signer or self.signer, terms, ChannelHead(seq=1, cum=cum, head=bytes(32)))


class Counter(Stage):
    """A stage whose gateway takes prepayments of at least 1,000 credits."""

    signatures = "real"

    def open(self):
        runtime = self.gateway.runtime
        self.budget = Budget(runtime.store)
        return Prepayments(runtime, self.budget, credits_min=1_000)


def claims(stage):
    return [event for event in stage.chain.events if isinstance(event.transaction, ClaimDirect)]


def test_what_the_ledger_paid_is_credited_and_the_same_again_brings_nothing():
    async def story(stage):
        prepay, customer = stage.open(), Customer(stage)
        channel, before = customer.open(), stage.contract.balance(stage.gateway.signer.account)
        assert await prepay.take("alice", await customer.sign(channel, 40_000)) == 40_000
        assert stage.contract.balance(stage.gateway.signer.account) == before + 40_000
        with pytest.raises(RequestRejected, match="brings 0 credits: 40000 of 100000 locked ones are paid already"):
            await prepay.take("alice", await customer.sign(channel, 40_000))
        # More than is locked brings what is.
        assert await prepay.take("alice", await customer.sign(channel, 10**12)) == 60_000
        assert Budget(stage.gateway.store).balance("alice") == stage.budget.balance("alice") == LOCKED
        assert [grant.amount for grant in read_grants(stage.gateway.store)] == [40_000, 60_000]

    Counter().play(story)


def test_what_pays_nothing_is_refused_before_it_costs_gas():
    async def story(stage):
        prepay, customer = stage.open(), Customer(stage)
        channel, foreign = customer.open(), customer.open(stage.providers[0].signer.account)
        good = await customer.sign(channel, 40_000)
        for ack, words in (
            (await customer.sign(foreign, 40_000), "no channel"),
            (replace(good, channel=bytes(32)), "no channel"),
            (replace(good, cum=50_000), "not signed by the session key"),
            (await customer.sign(channel, 40_000, signer=stage.make_signer("thief")), "not signed by the session key"),
            (await customer.sign(channel, 999), "1000 are the least"),
            (replace(good, head=b""), "ack_shape"),
        ):
            with pytest.raises(RequestRejected, match=words):
                await prepay.take("alice", ack)
        assert claims(stage) == [] and not stage.budget.accounts
        assert await prepay.take("alice", good) == 40_000
        # Whoever saw it on the chain, or signs further, pays for the account that came first.
        with pytest.raises(RequestRejected, match="pays for another account"):
            await prepay.take("bob", await customer.sign(channel, 50_000))

    Counter().play(story)


def test_what_was_paid_before_the_channel_was_shown_here_is_nobodys_to_claim():
    async def story(stage):
        prepay, customer = stage.open(), Customer(stage)
        channel = customer.open()
        customer.apply(
            ClaimDirect(sender=customer.signer.account, acknowledgement=await customer.sign(channel, 40_000))
        )
        with pytest.raises(RequestRejected, match="brings 0 credits"):
            await prepay.take("thief", await customer.sign(channel, 40_000))
        assert await prepay.take("alice", await customer.sign(channel, 45_000)) == 5_000

    Counter().play(story)


@pytest.mark.parametrize("refusal", [Unavailable("nobody answers"), SettlementError("reverted")])
def test_a_ledger_that_does_not_pay_is_no_credit_and_it_may_be_tried_again(refusal, monkeypatch):
    async def story(stage):
        prepay, customer = stage.open(), Customer(stage)
        ack = await customer.sign(customer.open(), 40_000)
        ledger = type(stage.gateway.runtime.ledger)

        async def fail(self, transaction):
            raise refusal

        with monkeypatch.context() as patch:
            patch.setattr(ledger, "submit", fail)
            with pytest.raises(Unavailable):
                await prepay.take("alice", ack)
        assert not stage.budget.accounts
        assert await prepay.take("alice", ack) == 40_000

    Counter().play(story)


def test_a_power_cut_at_any_moment_credits_once_what_the_ledger_paid():
    """The claim is final after a block of half a second; the cut comes before, in, and after it."""
    outcomes = set()
    for at_s in [0.0, 0.001, 0.003] + [0.05 * step for step in range(1, 14)]:

        async def story(stage, at_s=at_s):
            prepay, customer = stage.open(), Customer(stage)
            ack = await customer.sign(customer.open(), 40_000)
            task = asyncio.ensure_future(prepay.take("alice", ack))
            await stage.clock.sleep(at_s)
            stage.gateway.crash()
            left = Budget(stage.gateway.store).balance("alice")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await stage.clock.sleep(2.0)
            paid = sum(event.paid for event in claims(stage))
            outcomes.add((left, paid))
            again = stage.open()
            async with Nursery() as nursery:
                nursery.start(again.run())
                await stage.clock.sleep(0.5)
                nursery.cancel()
            assert stage.budget.balance("alice") == paid
            if not paid:
                assert await again.take("alice", ack) == 40_000
            assert Budget(stage.gateway.store).balance("alice") == sum(event.paid for event in claims(stage)) == 40_000

        Counter().play(story)
    # Nothing happened; paid and not yet credited; both.
    assert outcomes == {(0, 0), (0, 40_000), (40_000, 40_000)}
