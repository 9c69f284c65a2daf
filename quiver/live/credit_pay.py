"""`credit pay`: a client with a chain account pays its gateway in, by a channel to the gateway's account.

Rules of this file: the channel is found again by counting nonces, so an interrupted payment leaves no channel behind unused. Each
acknowledgement is over what the ledger has paid and the amount on top: the same one twice pays once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec

from quiver.errors import Unavailable, UsageError
from quiver.identity.keys import KeyPair
from quiver.identity.signing import ack_digest, ack_domain
from quiver.ids import DIGEST_BYTES, Address, compute_channel_id
from quiver.live import keyfile
from quiver.live.chain.opening import LiveLedger, open_ledger
from quiver.live.client.verify import plain
from quiver.live.clock import LiveClock
from quiver.live.config_network import Network, load_network, parse_account
from quiver.live.stores.sqlite import SqliteStore
from quiver.settlement.channel import compute_held, is_spendable
from quiver.values.ledger import ChannelState, Deposit, OpenChannel, TopUp
from quiver.values.receipt import Acknowledgement

API_KEY_VARIABLE = "QUIVER_API_KEY"
# A claim waits for blocks and their confirmations.
ASK_S = 600.0
# Until the gateway sees what this account locked: it asks its node in its own time.
SEEN_S, SEEN_POLL_S = 60.0, 0.5


class _NotSeen(UsageError):
    """The gateway's view of the ledger does not show yet what it is paid from."""


class PaidAt(msgspec.Struct, frozen=True):
    """Where a gateway is paid, as it says itself."""

    account: str
    chain_id: int
    contract: str
    credits_min: int


class Told(msgspec.Struct, frozen=True):
    """Of `GET /credit`."""

    account: str
    balance: int
    paid_at: PaidAt


async def pay(given: argparse.Namespace) -> dict[str, Any]:
    """What the gateway gave, and the account then. `UsageError` before any money moves when it would not be taken."""
    network, keypair = load_network(given.network), keyfile.load(given.key)
    url = f"{given.gateway.rstrip('/')}/credit"
    told = msgspec.json.decode(await _call("GET", url), type=Told)
    gateway = _check(told.paid_at, network, given.amount)
    async with AsyncExitStack() as stack:
        store = None
        if network.chain.kind == "rpc":
            # Transactions under way must survive us.
            store = SqliteStore(given.key.with_suffix(".sqlite"))
            stack.push_async_callback(store.close)
        ledger = await open_ledger(network, given.network, keypair, clock=LiveClock(), store=store)
        stack.push_async_callback(ledger.close)
        state = await _fund(ledger, keypair, gateway, given.amount)
    # Files are seen by all at once; a chain by each when it looks.
    patience_s = SEEN_S if network.chain.kind == "rpc" else 0.0
    acknowledgement = _sign(
        keypair, told.paid_at.chain_id, parse_account(told.paid_at.contract, where=url), state, given.amount
    )
    answer: dict[str, Any] = msgspec.json.decode(await _hand_in(url, acknowledgement, patience_s))
    return answer


async def _hand_in(url: str, acknowledgement: Acknowledgement, patience_s: float) -> bytes:
    """A gateway refuses what it does not see on the ledger yet. Nothing was given then, and the same again pays once."""
    ends_s = time.monotonic() + patience_s
    while True:
        try:
            return await _call("POST", url, plain(acknowledgement))
        except _NotSeen:
            if time.monotonic() >= ends_s:
                raise
        await asyncio.sleep(SEEN_POLL_S)


def _check(paid_at: PaidAt, network: Network, amount: int) -> Address:
    if (paid_at.chain_id, paid_at.contract) != (network.chain.id, network.chain.contract.lower()):
        raise UsageError(
            f"the gateway is paid on chain {paid_at.chain_id}, contract {paid_at.contract}: another network's"
        )
    if not paid_at.credits_min or amount < paid_at.credits_min:
        least = f"at least {paid_at.credits_min} credits" if paid_at.credits_min else "nothing"
        raise UsageError(f"the gateway takes {least} by channel, not {amount}")
    return parse_account(paid_at.account, where="the gateway")


async def _fund(ledger: LiveLedger, keypair: KeyPair, gateway: Address, amount: int) -> ChannelState:
    """Our channel to the gateway, with at least `amount` in it that is not paid yet."""
    domain, nonce = ack_domain(ledger.chain_id, ledger.contract), 0
    while True:
        channel = compute_channel_id(domain, keypair.account, gateway, nonce)
        state = ledger.channel(channel)
        if state is None or is_spendable(state):
            break
        nonce += 1
    missing = amount - (compute_held(state) if state is not None else 0)
    if missing > 0:
        short = missing - ledger.balance(keypair.account)
        if short > 0:
            await ledger.submit(Deposit(sender=keypair.account, amount=short))
        if state is None:
            await ledger.submit(
                OpenChannel(
                    sender=keypair.account, provider=gateway, session=keypair.session_address, amount=missing, nonce=nonce
                )
            )  # fmt: skip
        else:
            await ledger.submit(TopUp(sender=keypair.account, channel=channel, amount=missing))
        state = ledger.channel(channel)
    if state is None:
        raise Unavailable(
            f"channel {channel.hex()} is not there yet: run the same command again, nothing is locked twice"
        )
    return state


def _sign(keypair: KeyPair, chain_id: int, contract: Address, state: ChannelState, amount: int) -> Acknowledgement:
    """No receipts stand behind it, so its head is of nothing, and its seq grows with what it pays."""
    cum, head = state.paid + amount, bytes(DIGEST_BYTES)
    digest = ack_digest(ack_domain(chain_id, contract), state.channel, cum, cum, head)
    signature = keypair.sign_session(digest, state.session)
    return Acknowledgement(channel=state.channel, seq=cum, cum=cum, head=head, signature=signature)


async def _call(method: str, url: str, body: dict[str, Any] | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {os.environ.get(API_KEY_VARIABLE, '')}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S)) as session,
            session.request(method, url, json=body, headers=headers) as response,
        ):
            data = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"{url} does not answer: {error}; look at the balance there before you pay again") from error
    if response.status >= 400:
        kind = (
            Unavailable
            if response.status >= 500
            else _NotSeen
            if response.status == HTTPStatus.CONFLICT
            else UsageError
        )
        raise kind(f"the gateway refuses ({response.status}): {data[:1000].decode(errors='replace')}")
    return data
