"""A bond before the first root, filled up after a slash, and a clear word where credits are missing."""

from __future__ import annotations

import asyncio

import msgspec

from quiver.params import Params
from quiver.trace import EpochCommitted, EvidenceRecorded
from quiver.values.ledger import Bond, Deposit, ProveBadHead, RequestUnbond, SignedCommitment
from tests.unit.aggregator.test_service import World

# A slash of 100 makes a bond of 2,000.
PARAMS = msgspec.structs.replace(Params.minimal(), slash_credits=100)


def tell(story, *, deposit=0):
    world = World(PARAMS)
    if deposit:
        world.apply(Deposit(sender=world.signer.account, amount=deposit))
    world.env.run_coroutine(story(world))
    world.contract.validate()


def bonded(world):
    state = world.contract.bond(world.signer.account)
    return None if state is None else (state.amount, state.signer)


def test_the_bond_is_there_before_the_first_root_and_names_the_session_key():
    async def story(world):
        runner = asyncio.get_running_loop().create_task(world.service.run())
        await world.clock.sleep(1.5)
        assert bonded(world) == (2000, world.signer.session_address)
        await world.ask(world.batch(1, 1))
        await world.clock.sleep(12)
        assert len(world.trace.of(EpochCommitted)) == 1
        assert world.contract.balance(world.signer.account) == 500
        runner.cancel()

    tell(story, deposit=2500)


def test_what_a_slash_took_is_bonded_again_before_the_next_root():
    async def story(world):
        loop = asyncio.get_running_loop()
        runner = loop.create_task(world.service.run())
        await world.ask(world.batch(1, 1))
        await world.clock.sleep(12)
        (first,) = world.trace.of(EpochCommitted)
        commitment = msgspec.structs.replace(world.ledger.epoch(first.epoch).commitment, root=bytes(32))
        signed = SignedCommitment(commitment=commitment, signature=await world.sign_commitment(commitment))
        accuser = world.history.provider.account
        world.apply(ProveBadHead(sender=accuser, signed=signed))
        assert bonded(world)[0] == 1900
        await world.ask(world.batch(2, 2))
        await world.clock.sleep(12)
        assert len(world.trace.of(EpochCommitted)) == 2
        assert (bonded(world)[0], world.contract.balance(world.signer.account)) == (2000, 400)
        runner.cancel()

    tell(story, deposit=2500)


def test_without_enough_credits_it_says_once_how_many_and_posts_when_they_are_there():
    async def story(world):
        runner = asyncio.get_running_loop().create_task(world.service.run())
        await world.ask(world.batch(1, 1))
        await world.clock.sleep(25)
        (said,) = world.trace.of(EvidenceRecorded)
        assert (said.kind, said.peer) == ("bond_short", world.signer.peer_id)
        assert "lacks 2000 of 2000 credits and 1200 are free: deposit 800 more" in said.detail
        assert world.trace.of(EpochCommitted) == []
        world.apply(Deposit(sender=world.signer.account, amount=800))
        await world.clock.sleep(10)
        assert len(world.trace.of(EpochCommitted)) == 1
        runner.cancel()

    tell(story, deposit=1200)


def test_a_bond_that_is_leaving_or_names_another_signer_is_an_obstacle_by_name():
    async def story(world):
        account, payer = world.signer.account, world.history.payer.session_address
        world.apply(Bond(sender=account, amount=5, signer=payer))
        assert not await world.service.bonding.ensure() and not world.service.bonding.is_binding
        world.apply(RequestUnbond(sender=account))
        assert not await world.service.bonding.ensure()
        assert [said.kind for said in world.trace.of(EvidenceRecorded)] == ["signer_fixed", "unbonding"]

    tell(story, deposit=9000)


def test_a_network_without_slashes_wants_no_bond():
    async def story(world):
        assert await world.service.bonding.ensure()
        assert bonded(world) is None and not world.service.bonding.is_binding

    world = World()
    world.env.run_coroutine(story(world))
