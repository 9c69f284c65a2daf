"""Two chains with the same contract at the same address: what is said on one means nothing on the other, and nobody mixes them up."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import msgspec
import pytest

from quiver.errors import BadSignature, PeerError, SettlementError, Unavailable, UsageError
from quiver.gateway.discovery import Discovery
from quiver.identity import signing
from quiver.identity.signing import ack_domain
from quiver.ids import ModelId, compute_channel_id
from quiver.live.chain.calls import encode_call
from quiver.live.chain.envelope import Envelope, sign_envelope
from quiver.live.chain.fees import Fees
from quiver.live.chain.rpc_client import Rpc
from quiver.live.chain.shared_evm import CHAIN_ID as EMBEDDED_ID
from quiver.live.chain.shared_evm import SharedEvmLedger, shared_contract
from quiver.params import Params
from quiver.provider.payers import Payers
from quiver.receipts.checks import ChannelTerms
from quiver.receipts.signatures import sign_acknowledgement
from quiver.values.frames import Authorise
from quiver.values.ledger import ClaimDirect, Deposit, OpenChannel
from quiver.values.offer import Offer, SignedOffer
from quiver.values.receipt import ChannelHead
from sim.signer import SimSigner, SimVerifier
from sim.store import MemoryStore
from tests.evm.beds import Chain, deploy_at, fund, key_of
from tests.evm.node import Node, RpcFailed, need_node

PARAMS = Params.minimal()
HERE, THERE = 31337, 31339
NAMES = ("payer", "provider")
PAYER, PROVIDER = SimSigner(1, "payer", mode="real"), SimSigner(1, "provider", mode="real")
GWEI = 10**9
UTC_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def nodes():
    need_node()
    with Node() as here, Node("--chain-id", str(THERE)) as there:
        for node in (here, there):
            fund(node, *(key_of(name).account for name in NAMES))
            node.contract = deploy_at(node, PARAMS)
        assert here.contract == there.contract
        yield here, there


class Clock:
    def utc_ms(self):
        return UTC_MS


@contextlib.asynccontextmanager
async def on_node(node, chain_id):
    chain = Chain([node.url], node.contract, PARAMS, chain_id=chain_id)
    try:
        yield await chain.open(*NAMES)
    finally:
        await chain.close()


@contextlib.asynccontextmanager
async def embedded(path):
    aggregator = key_of("aggregator").account
    ledgers = [
        SharedEvmLedger(
            path, key_of(name).account, chain_id=EMBEDDED_ID, contract=shared_contract(aggregator), aggregator=aggregator,
            params=PARAMS, clock=Clock(),
        )
        for name in NAMES
    ]  # fmt: skip
    try:
        yield ledgers
    finally:
        for ledger in ledgers:
            await ledger.close()


async def open_channel(ledger, nonce):
    """Of the payer to the provider, with 400 credits."""
    await ledger.submit(Deposit(sender=PAYER.account, amount=1000))
    opening = OpenChannel(
        sender=PAYER.account, provider=PROVIDER.account, session=PAYER.session_address, amount=400, nonce=nonce
    )
    await ledger.submit(opening)
    return compute_channel_id(ack_domain(ledger.chain_id, ledger.contract), PAYER.account, PROVIDER.account, nonce)


async def acknowledge(ledger, channel):
    terms = ChannelTerms(
        chain_id=ledger.chain_id, contract=ledger.contract, channel=channel, provider_key=PROVIDER.public_key,
        payer=PAYER.account,
    )  # fmt: skip
    return await sign_acknowledgement(PAYER, terms, ChannelHead(seq=1, cum=150, head=b"\1" * 32))


async def refused(reason, coroutine):
    with pytest.raises(SettlementError) as caught:
        await coroutine
    assert caught.value.reason == reason


async def check_apart(here, there):
    """What the payer signs for `here` pays nothing `there`, whichever channel it is said to be for."""
    ours, theirs = await open_channel(here[0], 1), await open_channel(there[0], 1)
    ack = await acknowledge(here[0], ours)
    claim = ClaimDirect(sender=PROVIDER.account, acknowledgement=ack)
    await refused("unknown_channel", there[1].submit(claim))
    moved = msgspec.structs.replace(claim, acknowledgement=msgspec.structs.replace(ack, channel=theirs))
    await refused("bad_signature", there[1].submit(moved))
    await here[1].submit(claim)
    assert (here[1].balance(PROVIDER.account), there[1].balance(PROVIDER.account)) == (150, 0)
    await check_roles_apart(here, there, theirs)


async def check_roles_apart(here, there, theirs):
    def runtime_of(ledger, signer):
        return SimpleNamespace(
            ledger=ledger, signer=signer, verifier=SimVerifier(mode="real"), clock=Clock(), params=PARAMS,
            store=MemoryStore(), rng=None, transport=None,
        )  # fmt: skip

    # A provider there hears a payer who signed for here.
    digest = signing.authorise_digest(
        here[0].chain_id, here[0].contract, theirs, PAYER.peer_id, PROVIDER.peer_id, UTC_MS + 10**6
    )
    authorise = Authorise(
        channel=theirs, payer=PAYER.account, session=PAYER.session_address, gateway=PAYER.peer_id,
        provider=PROVIDER.peer_id, expires_ms=UTC_MS + 10**6, signature=await PAYER.sign_session(digest),
        head=ChannelHead(seq=0, cum=0, head=bytes(32)),
    )  # fmt: skip
    with pytest.raises(BadSignature, match="session key's signature"):
        await Payers(runtime_of(there[1], PROVIDER)).authorise(PAYER.peer_id, authorise)
    # A gateway here is offered something to be paid for there.
    model = ModelId(b"\5" * 32)
    offer = Offer(
        provider=PROVIDER.peer_id, public_key=PROVIDER.public_key, model=model, name="m", prompt_price=1,
        completion_price=1, minimum_credits=1, hardware="", slots=1, prefill_tps=1.0, decode_tps=1.0,
        payout=PROVIDER.account, chain_id=there[0].chain_id, contract=there[0].contract, generation=1,
        expires_ms=UTC_MS + 10**6,
    )  # fmt: skip
    signed = SignedOffer(offer=offer, signature=await PROVIDER.sign(signing.offer_bytes(offer)))
    gateway = Discovery(runtime_of(here[0], PAYER), None, [model], None)
    with pytest.raises(PeerError, match="another chain or contract"):
        await gateway._take(PROVIDER.peer_id, signed)


def test_two_nodes(nodes):
    async def story():
        async with on_node(nodes[0], HERE) as here, on_node(nodes[1], THERE) as there:
            await check_apart(here, there)

    asyncio.run(story())


def test_a_node_and_the_embedded_chain(nodes, tmp_path):
    async def story():
        async with on_node(nodes[1], THERE) as there, embedded(tmp_path / "chain.db") as here:
            provider, before = key_of("provider").account, there[1].balance(key_of("provider").account)
            ours = await open_channel(here[0], 2)
            ack = await acknowledge(here[0], ours)
            await refused("unknown_channel", there[1].submit(ClaimDirect(sender=provider, acknowledgement=ack)))
            assert there[1].balance(provider) == before
            assert here[0].chain_id not in (there[0].chain_id, HERE)

    asyncio.run(story())


def test_a_transaction_of_one_chain_is_none_on_the_other(nodes):
    key = key_of("payer")
    envelope = Envelope(
        nonce=0,
        to=nodes[0].contract,
        value=GWEI,
        calldata=encode_call(Deposit(sender=key.account, amount=1)),
        gas=200_000,
    )
    signed = sign_envelope(envelope, Fees(max_wei=9 * GWEI, priority_wei=GWEI), chain_id=HERE, sign=key.sign_account)
    with pytest.raises(RpcFailed, match="(?i)chain id"):
        nodes[1].rpc("eth_sendRawTransaction", "0x" + signed.hex())


def test_a_node_of_another_chain_is_refused_by_both_ids(nodes):
    async def story():
        rpc = Rpc([nodes[1].url], HERE)
        with pytest.raises(UsageError, match=f"serves chain {THERE}, not {HERE}"):
            await rpc.call("eth_blockNumber")
        await rpc.close()
        # In a list it is passed over: money goes to the chain that was meant, or nowhere.
        rpc = Rpc([nodes[1].url, nodes[0].url], HERE)
        assert int(await rpc.call("eth_chainId"), 16) == HERE
        await rpc.close()
        rpc = Rpc([nodes[1].url, "http://127.0.0.1:9"], HERE)
        with pytest.raises(Unavailable, match=f"serves chain {THERE}, not {HERE}"):
            await rpc.call("eth_blockNumber")
        await rpc.close()

    asyncio.run(story())


def test_a_contract_with_other_terms_or_none_is_refused_by_name(nodes):
    async def story(params, contract, message):
        chain = Chain([nodes[0].url], contract, params)
        with pytest.raises(UsageError, match=message):
            await chain.open("payer")
        await chain.mirrors[0].rpc.close()

    longer = msgspec.structs.replace(PARAMS, epoch_ms=60_000)
    asyncio.run(story(longer, nodes[0].contract, "has terms .*60000"))
    asyncio.run(story(PARAMS, b"\7" * 20, f"chain {HERE} has no contract at 0x0707"))
