"""What a transaction may cost a unit of gas, and how much more once it is stuck. Pure."""

from __future__ import annotations

import msgspec

from quiver.errors import Unavailable

GWEI = 10**9
# Nodes take another transaction of the same nonce only if both fees are 10 % higher (go-ethereum's txpool pricebump); 1/8 is.
_BUMP_NUMERATOR, _BUMP_DENOMINATOR = 9, 8
_BUMP_MIN_PERCENT = 110


class Market(msgspec.Struct, frozen=True, kw_only=True):
    """What the chain asks now, in wei a unit of gas."""

    base_wei: int
    priority_wei: int


class Fees(msgspec.Struct, frozen=True, kw_only=True):
    """What a transaction offers, in wei a unit of gas."""

    max_wei: int
    "All together."
    priority_wei: int
    "Of it, what whoever makes the block may keep."


def offer_fees(market: Market, *, cap_wei: int) -> Fees:
    """Room for the base fee to double (six full blocks in a row), never more than the cap; `Unavailable` if that is too little."""
    if market.base_wei > cap_wei:
        raise Unavailable(
            f"gas costs {market.base_wei / GWEI:g} gwei, more than [chain] fee_gwei_max = {cap_wei / GWEI:g}: "
            "wait, or allow more",
            retry_after_s=60.0,
        )
    max_wei = min(2 * market.base_wei + market.priority_wei, cap_wei)
    return Fees(max_wei=max_wei, priority_wei=min(market.priority_wei, max_wei))


def raise_fees(old: Fees, market: Market, *, cap_wei: int) -> Fees | None:
    """Enough more that nodes take it in place of the old one; None once the cap is reached."""
    max_wei = min(max(_bump(old.max_wei), 2 * market.base_wei + market.priority_wei), cap_wei)
    if 100 * max_wei < _BUMP_MIN_PERCENT * old.max_wei or max_wei <= old.max_wei:
        return None
    return Fees(max_wei=max_wei, priority_wei=min(max(_bump(old.priority_wei), market.priority_wei), max_wei))


def _bump(wei: int) -> int:
    return -(-wei * _BUMP_NUMERATOR // _BUMP_DENOMINATOR)
