"""Calldata read back: every kind of transaction comes out as it went in."""

from __future__ import annotations

import msgspec
import pytest

from quiver.ids import Address
from quiver.live.chain.artefact import contract_address
from quiver.live.chain.calls import encode_call
from quiver.live.chain.reading import decode_call
from quiver.settlement.channels import leaf_of
from quiver.values.ledger import Claim
from tests.evm.samples import samples


@pytest.mark.parametrize("transaction", samples(), ids=lambda one: type(one).__name__)
def test_every_transaction_comes_back_from_its_bytes(transaction):
    if isinstance(transaction, Claim):
        # A claim's bytes do not repeat what its acknowledgement says.
        leaf = leaf_of(transaction.acknowledgement, transaction.leaf.epoch)
        transaction = msgspec.structs.replace(transaction, leaf=leaf)
    assert decode_call(transaction.sender, encode_call(transaction), lambda epoch: 2) == transaction


@pytest.mark.parametrize("calldata", [b"", b"\0" * 3, b"\0" * 4, bytes(100)])
def test_what_is_no_transaction_of_ours_is_none(calldata):
    assert decode_call(Address(bytes(20)), calldata, lambda epoch: 2) is None


def test_a_call_cut_short_is_none():
    for transaction in samples():
        calldata = encode_call(transaction)
        if len(calldata) > 4:
            assert decode_call(transaction.sender, calldata[:-1], lambda epoch: 2) is None


def test_a_contracts_address_follows_from_its_creator():
    """The example everybody quotes: ethereum.stackexchange.com/q/760."""
    creator = Address(bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0"))
    expected = {
        0: "cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d",
        1: "343c43a37d37dff08ae8c4a11544c718abb4fcf8",
        2: "f778b86fa74e846c4f0a1fbd1335fe81c00a0c91",
    }
    assert {nonce: contract_address(creator, nonce).hex() for nonce in expected} == expected
