"""Transactions as others sign and read them, and what they may cost."""

from __future__ import annotations

import coincurve
import pytest
from eth_account import Account

from quiver.errors import Unavailable
from quiver.identity.keys import KeyPair
from quiver.ids import Address
from quiver.live.chain.envelope import Envelope, hash_signed, sign_envelope
from quiver.live.chain.fees import Fees, Market, offer_fees, raise_fees

GWEI = 10**9
KEY = KeyPair(b"\x05" * 32)


@pytest.mark.parametrize("to", [Address(b"\x07" * 20), None], ids=["call", "deployment"])
@pytest.mark.parametrize("nonce", [0, 1, 2**40])
def test_eth_account_reads_the_same_sender_and_hash(to, nonce):
    envelope = Envelope(nonce=nonce, to=to, value=3 * GWEI, calldata=b"\0\1\2" * 50, gas=123_456)
    fees = Fees(max_wei=7 * GWEI, priority_wei=GWEI)
    signed = sign_envelope(envelope, fees, chain_id=31337, sign=KEY.sign_account)
    assert Account.recover_transaction(signed).lower() == "0x" + KEY.account.hex()


def test_eth_account_signs_the_same_bytes():
    """Both use RFC 6979 nonces, so with one key there is one signature."""
    account = Account.from_key(b"\x0b" * 32)

    key = coincurve.PrivateKey(b"\x0b" * 32)
    envelope = Envelope(nonce=9, to=Address(b"\x07" * 20), value=5, calldata=b"\xff\0", gas=50_000)
    fees = Fees(max_wei=7 * GWEI, priority_wei=GWEI)
    ours = sign_envelope(envelope, fees, chain_id=5, sign=lambda digest: key.sign_recoverable(digest, hasher=None))
    theirs = account.sign_transaction(
        {
            "type": 2, "chainId": 5, "nonce": 9, "to": "0x" + "07" * 20, "value": 5, "data": "0xff00", "gas": 50_000,
            "maxFeePerGas": 7 * GWEI, "maxPriorityFeePerGas": GWEI,
        }
    )  # fmt: skip
    assert (ours, hash_signed(ours)) == (bytes(theirs.raw_transaction), bytes(theirs.hash))


def test_an_account_key_is_in_no_text():
    assert repr(KEY) == f"KeyPair(account=0x{KEY.account.hex()})" and not hasattr(KEY, "__dict__")


def test_an_offer_leaves_room_for_twice_the_base_fee_up_to_the_cap():
    market = Market(base_wei=10 * GWEI, priority_wei=2 * GWEI)
    assert offer_fees(market, cap_wei=100 * GWEI) == Fees(max_wei=22 * GWEI, priority_wei=2 * GWEI)
    assert offer_fees(market, cap_wei=15 * GWEI) == Fees(max_wei=15 * GWEI, priority_wei=2 * GWEI)
    with pytest.raises(Unavailable, match="gas costs 10 gwei, more than .* = 9"):
        offer_fees(market, cap_wei=9 * GWEI)


def test_a_replacement_is_an_eighth_dearer_in_both_or_what_the_market_asks():
    calm, wild = Market(base_wei=GWEI, priority_wei=GWEI), Market(base_wei=40 * GWEI, priority_wei=5 * GWEI)
    old = Fees(max_wei=16 * GWEI, priority_wei=8 * GWEI)
    assert raise_fees(old, calm, cap_wei=100 * GWEI) == Fees(max_wei=18 * GWEI, priority_wei=9 * GWEI)
    assert raise_fees(old, wild, cap_wei=100 * GWEI) == Fees(max_wei=85 * GWEI, priority_wei=9 * GWEI)


def test_no_replacement_that_nodes_would_refuse_is_made_at_the_cap():
    """They want 10 % more; 17 instead of 16 is less."""
    calm = Market(base_wei=GWEI, priority_wei=GWEI)
    old = Fees(max_wei=16 * GWEI, priority_wei=GWEI)
    assert raise_fees(old, calm, cap_wei=17 * GWEI) is None
    assert raise_fees(old, calm, cap_wei=16 * GWEI) is None
    assert raise_fees(old, calm, cap_wei=17_600_000_000) == Fees(max_wei=17_600_000_000, priority_wei=1_125_000_000)
