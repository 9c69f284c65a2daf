"""`LedgerSuite` on every ledger."""

from __future__ import annotations

import asyncio
import math

import pytest

from quiver.ids import Address
from quiver.live.chain.artefact import UNIT_DEFAULT
from quiver.live.chain.evm import EvmChain, EvmLedger
from quiver.live.chain.local import LocalLedger
from quiver.live.chain.shared_evm import SharedEvmLedger, shared_contract
from quiver.params import Params
from quiver.settlement.contract import Contract
from quiver.values.ledger import Withdraw
from sim.clock import SimClock
from sim.invariants import SecondBookkeeper
from sim.ledger import SimChain
from sim.loop import Environment
from sim.signer import SimSigner, SimVerifier
from sim.trace import RunTrace
from tests.conformance.ledger_suite import LedgerSuite
from tests.evm.beds import Chain, deploy_at, fund, key_of
from tests.evm.node import Node, need_node

CHAIN_ID, CONTRACT = 31337, Address(b"\x0c" * 20)


class SimBed:
    params = Params.minimal()

    def __init__(self, mode, block_time_s):
        self.mode = mode
        self.env = Environment()
        self.clock = SimClock(self.env)
        self.trace = RunTrace()
        self.bookkeeper = SecondBookkeeper()
        self.trace.subscribe(self.bookkeeper.observe)
        self.contract = Contract(
            chain_id=CHAIN_ID, contract=CONTRACT, aggregator=SimSigner(1, "aggregator", mode=mode).account,
            params=self.params, verify_session=SimVerifier(mode=mode).verify_session_now,
        )  # fmt: skip
        self.chain = SimChain(self.contract, self.clock, trace=self.trace, block_time_s=block_time_s)

    def run(self, story):
        self.env.run_coroutine(story())
        self.contract.validate()
        self.bookkeeper.compare(self.contract)

    def node(self, name):
        signer = SimSigner(1, name, mode=self.mode)
        return self.chain.view(signer.account, signer.peer_id), signer

    async def advance(self, seconds):
        await self.clock.sleep(seconds)

    def utc_ms(self):
        return self.clock.utc_ms()


class TestSimLedger(LedgerSuite):
    @pytest.fixture(params=[("modelled", 0.0), ("modelled", 0.5), ("real", 0.5)])
    def chain(self, request):
        return SimBed(*request.param)


class StoppedClock:
    """Only `utc_ms` is used, and it moves when told."""

    def __init__(self):
        self.ms = 1_700_000_000_000

    def utc_ms(self):
        return self.ms


class LocalBed:
    params = Params.minimal()

    def __init__(self, path):
        self.path = path
        self.clock = StoppedClock()
        self.ledgers = []

    def run(self, story):
        async def main():
            try:
                await story()
                self.ledgers[0].validate()
            finally:
                for ledger in self.ledgers:
                    await ledger.close()

        asyncio.run(main())

    def node(self, name):
        signer = SimSigner(1, name, mode="real")
        ledger = LocalLedger(
            self.path, signer.account, chain_id=CHAIN_ID, contract=CONTRACT, params=self.params, clock=self.clock,
            aggregator=SimSigner(1, "aggregator", mode="real").account,
        )  # fmt: skip
        self.ledgers.append(ledger)
        return ledger, signer

    async def advance(self, seconds):
        self.clock.ms += round(seconds * 1000)

    def utc_ms(self):
        return self.clock.ms


class TestLocalLedger(LedgerSuite):
    @pytest.fixture
    def chain(self, tmp_path):
        return LocalBed(tmp_path / "chain.db")


class SharedEvmBed(LocalBed):
    """Three nodes, each with an engine of its own, over one history; in the end they must agree."""

    def run(self, story):
        async def compared():
            await story()
            seen = [[ledger.events(0), ledger.channel(ledger.events(0)[1].channel)] for ledger in self.ledgers]
            assert seen[0][0] and all(one == seen[0] for one in seen)
            # What was tried before it was written down has left no coin behind.
            for chain in (ledger._chain for ledger in self.ledgers):
                withdrawn = sum(e.transaction.amount for e in seen[0][0] if isinstance(e.transaction, Withdraw))
                coins = [
                    chain.coin(account) for account in (chain.contract, SimSigner(1, "payer", mode="real").account)
                ]
                assert coins == [(chain.deposited - withdrawn) * UNIT_DEFAULT, withdrawn * UNIT_DEFAULT]

        async def main():
            try:
                await compared()
            finally:
                for ledger in self.ledgers:
                    await ledger.close()

        asyncio.run(main())

    def node(self, name):
        signer = SimSigner(1, name, mode="real")
        aggregator = SimSigner(1, "aggregator", mode="real").account
        ledger = SharedEvmLedger(
            self.path, signer.account, chain_id=CHAIN_ID, contract=shared_contract(aggregator), params=self.params,
            clock=self.clock, aggregator=aggregator,
        )  # fmt: skip
        self.ledgers.append(ledger)
        return ledger, signer


class TestSharedEvmLedger(LedgerSuite):
    @pytest.fixture
    def chain(self, tmp_path):
        return SharedEvmBed(tmp_path / "chain.db")


class AnvilBed:
    """A real node whose time stands still until it is told: an epoch then ends when the story says so."""

    params = Params.minimal()
    names = ("payer", "provider", "aggregator")

    def __init__(self, node):
        self.node_process = node
        # From an epoch's beginning: the machine's clock is anywhere in one, and in the second half an epoch later is after the grace.
        epoch_s = self.params.epoch_ms // 1000
        node.rpc("evm_setNextBlockTimestamp", (self.utc_ms() // 1000 // epoch_s + 1) * epoch_s)
        node.rpc("evm_mine")
        node.rpc("anvil_setBlockTimestampInterval", 0)
        fund(node, *(key_of(name).account for name in self.names))
        self.chain = Chain([node.url], deploy_at(node, self.params), self.params)

    def run(self, story):
        async def main():
            try:
                await self.chain.open(*self.names)
                await story()
            finally:
                await self.chain.close()

        asyncio.run(main())

    def node(self, name):
        return self.chain.ledgers[name], SimSigner(1, name, mode="real")

    async def advance(self, seconds):
        self.node_process.rpc("evm_setNextBlockTimestamp", self.utc_ms() // 1000 + math.ceil(seconds))
        self.node_process.rpc("evm_mine")

    def utc_ms(self):
        return int(self.node_process.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16) * 1000


class TestAnvilLedger(LedgerSuite):
    @pytest.fixture
    def chain(self):
        need_node()
        with Node() as node:
            yield AnvilBed(node)


class EvmBed:
    params = Params.minimal()

    def __init__(self):
        self.clock = StoppedClock()
        aggregator = SimSigner(1, "aggregator", mode="real").account
        self.chain = EvmChain(chain_id=CHAIN_ID, aggregator=aggregator, params=self.params)

    def run(self, story):
        asyncio.run(story())

    def node(self, name):
        signer = SimSigner(1, name, mode="real")
        return EvmLedger(self.chain, signer.account, clock=self.clock), signer

    async def advance(self, seconds):
        self.clock.ms += round(seconds * 1000)

    def utc_ms(self):
        return self.clock.ms


class TestEvmLedger(LedgerSuite):
    @pytest.fixture
    def chain(self):
        return EvmBed()
