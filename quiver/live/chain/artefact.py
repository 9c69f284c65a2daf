"""The compiled contract, as committed beside its Vyper source, and the bytes that deploy it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import msgspec
from Crypto.Hash import keccak
from eth_abi.abi import encode

from quiver.ids import Address
from quiver.settlement.accounts import NOBODY
from quiver.settlement.terms import Terms

# One credit is a thousand-millionth of the chain's coin, as a gwei is of an ether.
UNIT_DEFAULT = 10**9


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """What the compiler made of `settlement.vy`."""

    compiler: str
    abi: list[dict[str, object]]
    bytecode: str


@cache
def load_artefact() -> Artefact:
    """The committed one."""
    return msgspec.json.decode(
        files("quiver.live.chain").joinpath("contract/settlement.json").read_bytes(), type=Artefact
    )


def keccak256(data: bytes) -> bytes:
    """Keccak as Ethereum uses it, before it became SHA-3."""
    return keccak.new(data=data, digest_bits=256).digest()


def selector(signature: str) -> bytes:
    """The first 4 bytes of a call: which function is meant."""
    return keccak256(signature.encode())[:4]


def contract_address(creator: Address, nonce: int) -> Address:
    """Where a contract lands that `creator` deploys with its transaction `nonce` (Yellow Paper, 7)."""
    number = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    encoded = number if len(number) == 1 and nonce < 0x80 else bytes([0x80 + len(number)]) + number
    items = bytes([0x80 + len(creator)]) + creator + encoded
    return Address(keccak256(bytes([0xC0 + len(items)]) + items)[12:])


def deployment(
    bytecode: bytes, *, aggregator: Address, terms: Terms, token: Address = NOBODY, unit: int = UNIT_DEFAULT
) -> bytes:
    """Code and constructor arguments. `token` is an ERC-20 contract, or nobody for the chain's own coin."""
    return bytecode + encode(
        ["address"] * 2 + ["uint256"] * 7,
        [
            aggregator, token, unit, terms.epoch_ms, terms.submit_grace_ms, terms.exit_delay_ms,
            terms.challenge_window_ms, terms.respond_ms, terms.slash,
        ],
    )  # fmt: skip
