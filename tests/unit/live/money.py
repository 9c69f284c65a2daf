"""A provider's and a gateway's files as a network leaves them: a channel of 1,000 credits, four receipts, three signed for.

Both stores are held open, as by nodes that run. Signatures are real; amounts are 100, 200, 300 and 50 credits.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import contextmanager

from quiver.identity.keys import KeyPair
from quiver.identity.signing import next_head, receipt_digest, request_hash
from quiver.ids import ModelId, RequestId
from quiver.live import keyfile
from quiver.live.__main__ import main
from quiver.live.chain.opening import open_ledger
from quiver.live.clock import LiveClock
from quiver.live.config_network import load_network
from quiver.live.stores.sqlite import SqliteStore
from quiver.provider.leaves import KeptLeaf, Leaves
from quiver.receipts.checks import ChannelTerms
from quiver.receipts.log import PayerLog, ProviderLog
from quiver.receipts.signatures import sign_acknowledgement, sign_receipt
from quiver.settlement.channels import leaf_of
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.values.ledger import Bond, Commitment, Deposit, OpenChannel, SubmitEpoch
from quiver.values.receipt import ReceiptBody

BODY, ANSWER, MAX_TOKENS = b'{"prompt":"x"}', "Hello", 5
MODEL = ModelId(b"\x11" * 32)
AMOUNTS, SIGNED = (100, 200, 300, 50), 3
DAY_MS = 86_400_000


class Signer:
    """The half of the port that signs."""

    def __init__(self, keypair: KeyPair):
        self.keypair = keypair

    async def sign(self, message):
        return self.keypair.sign(message)

    async def sign_session(self, digest):
        return self.keypair.sign_session(digest)


def request_id(number):
    return RequestId(number.to_bytes(16, "big"))


class Money:
    """What the story made; `receipts[n]` is of request n + 1."""

    def __init__(self, directory):
        self.directory = directory
        assert main(["init", "network", "--directory", str(directory), "--port", "4001"]) == 0
        for role in ("provider", "gateway"):
            assert main(["init", role, "--directory", str(directory), "--model", f"m={'11' * 32}"]) == 0
        self.network = load_network(directory / "network.toml")
        self.keys = {name: keyfile.load(directory / f"{name}.key") for name in ("provider", "gateway", "aggregator")}

    def config(self, role):
        return str(self.directory / f"{role}.toml")

    async def ledger(self, name):
        return await open_ledger(self.network, self.directory / "network.toml", self.keys[name], clock=LiveClock())

    async def send(self, name, *transactions):
        ledger = await self.ledger(name)
        for transaction in transactions:
            await ledger.submit(transaction)
        events = ledger.events(0)
        await ledger.close()
        return events

    async def live(self):
        provider, gateway, aggregator = (self.keys[name] for name in ("provider", "gateway", "aggregator"))
        opening = OpenChannel(
            sender=gateway.account, provider=provider.account, session=gateway.session_address, amount=1_000, nonce=0
        )
        events = await self.send("gateway", Deposit(sender=gateway.account, amount=5_000), opening)
        self.channel = events[-1].channel
        self.terms = ChannelTerms(
            chain_id=self.network.chain.id, contract=bytes.fromhex(self.network.chain.contract[2:]), channel=self.channel,
            provider_key=provider.public_key, payer=gateway.account,
        )  # fmt: skip
        await self.serve()
        await self.commit(aggregator)

    async def serve(self):
        log, payer, leaves = ProviderLog(self.terms), PayerLog(self.terms), Leaves()
        self.log, rows, paid_rows = log, [], []
        provider, gateway = Signer(self.keys["provider"]), Signer(self.keys["gateway"])
        self.receipts = []
        for number, amount in enumerate(AMOUNTS, start=1):
            at = log.head
            body = ReceiptBody(
                chain_id=self.terms.chain_id, contract=self.terms.contract, channel=self.channel,
                request_id=request_id(number), seq=at.seq + 1, provider_key=self.terms.provider_key, payer=self.terms.payer,
                request_hash=request_hash(request_id(number), MODEL, MAX_TOKENS, BODY),
                response_hash=hashlib.sha256(ANSWER.encode()).digest(), model=MODEL, prompt_tokens=3, completion_tokens=4,
                amount=amount, cum=at.cum + amount, issued_ms=20_000 * DAY_MS,
            )  # fmt: skip
            signed = await sign_receipt(provider, body)
            self.receipts.append(signed)
            rows += log.on_issued(signed)
            assert log.head.head == next_head(at.head, receipt_digest(body))
            payer.on_receipt(signed)
            if number <= SIGNED:
                ack = await sign_acknowledgement(gateway, self.terms, payer.head)
                paid_rows += payer.on_signed(ack)
                rows += log.on_acknowledged(ack, receipts_batch_max=100)
        rows += log.on_ingested(log.next_submission(1, self.keys["gateway"].session_address))
        self.ack, self.leaves = ack, leaves
        rows += leaves.on_ingested(self.channel, 0)
        await self.stores["provider"].commit(rows)
        await self.stores["gateway"].commit(paid_rows)

    async def commit(self, aggregator):
        """Epoch 0 holds our leaf and another's."""
        leaf = leaf_of(self.ack, 0)
        tree = MerkleTree([bytes([7]) * 32, hash_leaf(leaf), bytes([8]) * 32])
        self.commitment = Commitment(epoch=0, root=tree.root, count=3)
        bond = 20 * self.network.params.slash_credits
        moves = [SubmitEpoch(sender=aggregator.account, commitment=self.commitment)]
        if bond:
            moves = [
                Deposit(sender=aggregator.account, amount=bond),
                Bond(sender=aggregator.account, amount=bond, signer=aggregator.session_address),
                *moves,
            ]
        await self.send("aggregator", *moves)
        self.kept = KeptLeaf(leaf=leaf, proof=tree.proof(1), acknowledgement=self.ack)
        await self.stores["provider"].commit(self.leaves.on_proof(self.kept))


@contextmanager
def money(directory):
    """The files, with both stores held open."""
    made = Money(directory)

    async def write():
        made.stores = {
            role: SqliteStore(directory / f"{role}.sqlite") for role in ("provider", "gateway", "aggregator")
        }
        await made.live()

    async def close():
        for store in made.stores.values():
            await store.close()

    with asyncio.Runner() as runner:
        runner.run(write())
        try:
            yield made
        finally:
            runner.run(close())
