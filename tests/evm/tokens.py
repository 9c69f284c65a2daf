"""Contracts around ours, written for these tests: a token with the habits that tokens have, and a thief that comes back."""

from __future__ import annotations

from functools import cache

from eth_abi.abi import encode

from quiver.ids import Address
from quiver.live.chain.artefact import selector
from quiver.live.chain.evm import EvmChain, hex_address
from tests.evm.compiled import compile_source
from tests.evm.pair import AGGREGATOR, CHAIN_ID, PARAMS

TOKEN = """
# pragma version 0.4.3
FEE: immutable(uint256)
HONEST: immutable(bool)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])

@deploy
def __init__(fee: uint256, honest: bool):
    FEE = fee
    HONEST = honest

@external
def mint(account: address, amount: uint256):
    self.balanceOf[account] += amount

@external
def approve(spender: address, amount: uint256) -> bool:
    self.allowance[msg.sender][spender] = amount
    return True

@external
def transfer(to: address, amount: uint256) -> bool:
    if not HONEST:
        return False
    self.balanceOf[msg.sender] -= amount
    self.balanceOf[to] += amount - FEE
    return True

@external
def transferFrom(source: address, to: address, amount: uint256) -> bool:
    if not HONEST:
        return False
    self.allowance[source][msg.sender] -= amount
    self.balanceOf[source] -= amount
    self.balanceOf[to] += amount - FEE
    return True
"""
# As old tokens do: a transfer that says nothing.
SILENT_TOKEN = TOKEN.replace(
    "amount: uint256) -> bool:\n    if not HONEST:\n        return False", "amount: uint256):"
).replace("- FEE\n    return True", "- FEE")
THIEF = """
# pragma version 0.4.3
interface Hub:
    def deposit(amount: uint256): payable
    def withdraw(amount: uint256): nonpayable

HUB: immutable(address)
AMOUNT: immutable(uint256)
unit: uint256
rounds: uint256

@deploy
def __init__(hub: address, amount: uint256):
    HUB = hub
    AMOUNT = amount

@external
@payable
def steal(rounds: uint256):
    extcall Hub(HUB).deposit(AMOUNT, value=msg.value)
    self.rounds = rounds
    extcall Hub(HUB).withdraw(AMOUNT)

@external
@payable
def __default__():
    if self.rounds > 0:
        self.rounds -= 1
        extcall Hub(HUB).withdraw(AMOUNT)
"""


@cache
def code_of(source: str) -> bytes:
    """Its bytecode."""
    return bytes.fromhex(str(compile_source(source)["bytecode"])[2:])


def deploy(chain: EvmChain, source: str, types: list[str], values: list[object]) -> Address:
    """A contract of `source` on the engine of `chain`."""
    code = code_of(source) + encode(types, values)
    return Address(bytes.fromhex(chain.engine.deploy(hex_address(AGGREGATOR), code)[2:]))


def call(chain: EvmChain, sender: Address, to: Address, signature: str, *values: object, value: int = 0) -> bytes:
    """A function of any contract; the engine's RuntimeError if it reverts."""
    types = [name for name in signature[signature.index("(") + 1 : -1].split(",") if name]
    chain.engine.reset_transient_storage()
    data = selector(signature) + encode(types, values)
    return bytes(chain.engine.message_call(hex_address(sender), hex_address(to), calldata=data, value=value))


def check_coin(bytecode: bytes | None = None) -> None:
    """AssertionError for a contract that gives credits without their coin."""
    chain = EvmChain(chain_id=CHAIN_ID, aggregator=AGGREGATOR, params=PARAMS, bytecode=bytecode)
    account = Address(b"\x31" * 20)
    chain.engine.set_balance(hex_address(account), 10**18)
    for value in (0, 7 * 10**9 - 1, 7 * 10**9 + 1):
        try:
            call(chain, account, chain.contract, "deposit(uint256)", 7, value=value)
        except RuntimeError as error:
            assert b"wrong_value".hex() in str(error), error
        assert chain.balance(account) == 0, f"{value} of coin bought credits worth {7 * 10**9}"
    call(chain, account, chain.contract, "deposit(uint256)", 7, value=7 * 10**9)
    assert chain.balance(account) == 7
