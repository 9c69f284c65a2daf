"""Coin and tokens at the contract's door: what comes in is covered, what goes out is owed, and nobody comes back for more."""

from __future__ import annotations

import pytest

from quiver.errors import SettlementError
from quiver.ids import Address
from quiver.live.chain.evm import EvmChain, hex_address
from quiver.values.ledger import Deposit, Withdraw
from tests.evm.compiled import need_compiler
from tests.evm.pair import AGGREGATOR, CHAIN_ID, PARAMS
from tests.evm.tokens import SILENT_TOKEN, THIEF, TOKEN, call, check_coin, deploy

PAYER, VICTIM = Address(b"\x31" * 20), Address(b"\x32" * 20)
UNIT = 1000


def chain_with(source, *, fee=0, honest=True):
    """A chain whose contract takes a token; the payer has 50,000 of it, approved."""
    need_compiler()
    bare = EvmChain(chain_id=CHAIN_ID, aggregator=AGGREGATOR, params=PARAMS)
    token = deploy(bare, source, ["uint256", "bool"], [fee, honest])
    chain = EvmChain(
        chain_id=CHAIN_ID, aggregator=AGGREGATOR, params=PARAMS, token=token, unit=UNIT, engine=bare.engine
    )
    call(chain, PAYER, token, "mint(address,uint256)", PAYER, 50_000)
    call(chain, PAYER, token, "approve(address,uint256)", chain.contract, 50_000)
    return chain, lambda account: int.from_bytes(call(chain, PAYER, token, "balanceOf(address)", account), "big")


def test_credits_cost_exactly_their_coin():
    check_coin()


@pytest.mark.parametrize("source", [TOKEN, SILENT_TOKEN], ids=["standard", "silent"])
def test_a_token_comes_in_and_goes_out(source):
    chain, tokens_of = chain_with(source)
    chain.apply(Deposit(sender=PAYER, amount=40), 0)
    assert (chain.balance(PAYER), tokens_of(chain.contract), tokens_of(PAYER)) == (40, 40_000, 10_000)
    chain.apply(Withdraw(sender=PAYER, amount=15), 0)
    assert (chain.balance(PAYER), tokens_of(chain.contract), tokens_of(PAYER)) == (25, 25_000, 25_000)


@pytest.mark.parametrize("habit", [{"fee": 1}, {"honest": False}], ids=["keeps a fee", "only says that it did"])
def test_a_token_that_does_not_bring_what_it_says_gives_no_credits(habit):
    chain, _ = chain_with(TOKEN, **habit)
    with pytest.raises(SettlementError) as caught:
        chain.apply(Deposit(sender=PAYER, amount=40), 0)
    assert (caught.value.reason, chain.balance(PAYER), chain.deposited) == ("transfer_failed", 0, 0)


def test_a_contract_for_a_token_takes_no_coin():
    chain, _ = chain_with(TOKEN)
    chain.engine.set_balance(hex_address(PAYER), 10**18)
    with pytest.raises(RuntimeError, match=b"wrong_value".hex()):
        call(chain, PAYER, chain.contract, "deposit(uint256)", 1, value=1)


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_a_thief_that_comes_back_while_it_is_paid_gets_nothing_beyond_its_own(rounds):
    need_compiler()
    chain = EvmChain(chain_id=CHAIN_ID, aggregator=AGGREGATOR, params=PARAMS, unit=UNIT)
    chain.apply(Deposit(sender=VICTIM, amount=1000), 0)
    thief = deploy(chain, THIEF, ["address", "uint256"], [chain.contract, 100])
    chain.engine.set_balance(hex_address(PAYER), 100 * UNIT)
    if rounds == 0:
        call(chain, PAYER, thief, "steal(uint256)", rounds, value=100 * UNIT)
        assert chain.coin(thief) == 100 * UNIT
    else:
        with pytest.raises(RuntimeError):
            call(chain, PAYER, thief, "steal(uint256)", rounds, value=100 * UNIT)
        assert (chain.coin(thief), chain.coin(PAYER)) == (0, 100 * UNIT)
    assert (chain.balance(VICTIM), chain.coin(chain.contract)) == (1000, 1000 * UNIT)
