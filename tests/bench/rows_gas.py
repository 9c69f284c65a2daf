"""Gas on a real node: our contract against its goals, Uniswap's merkle distributor from its npm package beside it.

Each figure is `gasUsed` of one transaction on anvil under its newest rules. Leaves of 2^20 are adjacent, as an epoch's are that
belong to one provider; providers were paid before, so that no first balance is counted.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
from eth_abi.abi import encode

from quiver.identity.keys import KeyPair
from quiver.identity.signing import (
    COMMITMENT_TAG,
    PROMISE_TAG,
    ack_digest,
    ack_domain,
    commitment_digest,
    promise_digest,
)
from quiver.ids import Address, ChannelId, compute_channel_id, compute_domain
from quiver.live.chain.artefact import UNIT_DEFAULT, deployment, keccak256, load_artefact, selector
from quiver.live.chain.calls import encode_call
from quiver.params import Params
from quiver.settlement.challenges import subject_of_omission
from quiver.settlement.channels import leaf_of
from quiver.settlement.merkle import MerkleTree, compute_path_root, hash_leaf
from quiver.settlement.multiproof import compute_paths_root, prove_many
from quiver.settlement.terms import Terms
from quiver.values import ledger
from quiver.values.receipt import Acknowledgement
from tests.bench.report import Goal, Row
from tests.evm.node import BINARY, MODULES, VERSION, Node

SENDER = "0x" + "a1" * 20
PAYER, PROVIDER, AGGREGATOR = (Address(bytes([n]) * 20) for n in (0xA1, 0xA2, 0xA3))
SESSION, SIGNER = KeyPair(bytes([1]) * 32), KeyPair(bytes([2]) * 32)
BATCH, SLASH = 64, 1000
PARAMS = msgspec.structs.replace(Params.minimal(), slash_credits=SLASH)


def siblings(count: int, purpose: str) -> tuple[bytes, ...]:
    """Hashes that belong to nothing: a path costs the same whatever it passes."""
    return tuple(hashlib.sha256(f"{purpose} {number}".encode()).digest() for number in range(count))


@dataclass
class Hub:
    """The contract on a node, with 66 channels of one payer to one provider."""

    node: Node
    gas: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        terms = Terms.from_params(PARAMS)
        for account in (PAYER, PROVIDER, AGGREGATOR):
            self.node.rpc("anvil_setBalance", "0x" + account.hex(), hex(10**22))
        code = deployment(bytes.fromhex(load_artefact().bytecode[2:]), aggregator=AGGREGATOR, terms=terms)
        receipt = self.node.send("0x" + AGGREGATOR.hex(), None, code)
        self.gas["deploy"] = int(receipt["gasUsed"], 16)
        self.address = receipt["contractAddress"]
        chain_id = int(self.node.rpc("eth_chainId"), 16)
        self.contract = Address(bytes.fromhex(self.address[2:]))
        self.domain = ack_domain(chain_id, self.contract)
        self.promise_domain = compute_domain(PROMISE_TAG, chain_id, self.contract)
        self.commitment_domain = compute_domain(COMMITMENT_TAG, chain_id, self.contract)
        self._epoch = (
            int(self.node.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16) * 1000 // PARAMS.epoch_ms
        )
        for account in (PAYER, AGGREGATOR):
            self.send("deposit", ledger.Deposit(sender=account, amount=10**9))
        self.send("bond", ledger.Bond(sender=AGGREGATOR, amount=20 * SLASH, signer=SIGNER.session_address))
        self.channels = [self.open(nonce) for nonce in range(BATCH + 2)]
        # The provider's balance is no longer zero: what a first payment costs more is the chain's, not a claim's.
        self.send(
            "first claim_direct of a provider",
            ledger.ClaimDirect(sender=PROVIDER, acknowledgement=self.acknowledge(0, 1)),
        )
        for channel in range(BATCH + 2):
            self.send("-", ledger.ClaimDirect(sender=PROVIDER, acknowledgement=self.acknowledge(channel, 2)))

    def send(self, name: str, transaction: ledger.Transaction) -> None:
        value = transaction.amount * UNIT_DEFAULT if isinstance(transaction, ledger.Deposit) else 0
        sender = "0x" + transaction.sender.hex()
        self.gas[name] = int(self.node.send(sender, self.address, encode_call(transaction), value)["gasUsed"], 16)

    def open(self, nonce: int) -> ChannelId:
        opened = ledger.OpenChannel(
            sender=PAYER, provider=PROVIDER, session=SESSION.session_address, amount=10_000, nonce=nonce
        )
        self.send("open", opened)
        return compute_channel_id(self.domain, PAYER, PROVIDER, nonce)

    def acknowledge(self, channel: int, cum: int) -> Acknowledgement:
        head, channel_id = hashlib.sha256(b"%d" % channel).digest(), self.channels[channel]
        signature = SESSION.sign_session(ack_digest(self.domain, channel_id, cum, cum, head))
        return Acknowledgement(channel=channel_id, seq=cum, cum=cum, head=head, signature=signature)

    def post(self, root: bytes, count: int) -> int:
        """The epoch that was posted; the node's clock moves on to the end of it."""
        self._epoch += 1
        self.node.rpc("evm_setNextBlockTimestamp", (self._epoch + 1) * PARAMS.epoch_ms // 1000)
        commitment = ledger.Commitment(epoch=self._epoch, root=root, count=count)
        self.send("submit_epoch", ledger.SubmitEpoch(sender=AGGREGATOR, commitment=commitment))
        return self._epoch

    def measure_claims(self) -> None:
        for levels, cum in ((10, 10), (20, 20)):
            ack = self.acknowledge(1, cum)
            proof = ledger.Proof(index=0b1010101010, count=1 << levels, siblings=siblings(levels, "single"))
            leaf = leaf_of(ack, self._epoch + 1)
            self.post(compute_path_root(hash_leaf(leaf), proof), 1 << levels)
            claim = ledger.Claim(sender=PROVIDER, leaf=leaf, proof=proof, acknowledgement=ack)
            self.send(f"claim 2^{levels}", claim)
        self.send("claim_direct", ledger.ClaimDirect(sender=PROVIDER, acknowledgement=self.acknowledge(1, 30)))
        acks = tuple(self.acknowledge(channel, 40) for channel in range(BATCH))
        self.send("direct batch", ledger.ClaimDirectBatch(sender=PROVIDER, acknowledgements=acks))
        acks = tuple(self.acknowledge(channel, 50) for channel in range(BATCH))
        hashes = [hash_leaf(leaf_of(ack, self._epoch + 1)) for ack in acks]
        inner = prove_many(MerkleTree(hashes), range(BATCH))
        many = ledger.MultiProof(
            indices=inner.indices, count=1 << 20, siblings=(*inner.siblings, *siblings(14, "many"))
        )
        epoch = self.post(compute_paths_root(hashes, many), 1 << 20)
        batch = ledger.ClaimBatch(sender=PROVIDER, epoch=epoch, acknowledgements=acks, proof=many)
        self.send("batch", batch)

    def measure_disputes(self) -> None:
        ack = self.acknowledge(2, 60)
        leaf = leaf_of(ack, self._epoch + 1)
        proof = ledger.Proof(index=5, count=1 << 20, siblings=siblings(20, "dispute"))
        epoch = self.post(compute_path_root(hash_leaf(leaf), proof), 1 << 20)
        self.send("challenge_leaf", ledger.ChallengeLeaf(sender=PAYER, leaf=leaf, proof=proof))
        self.send("answer_leaf", ledger.AnswerLeaf(sender=AGGREGATOR, leaf=leaf, signature=ack.signature))
        for seq, name in ((60, "challenge_omission"), (61, "-")):
            promise = ledger.Promise(epoch=epoch, channel=leaf.channel, cum=60, seq=seq, head=leaf.head, signature=b"")
            signature = SIGNER.sign_session(promise_digest(self.promise_domain, promise))
            promise = ledger.Promise(
                epoch=epoch, channel=leaf.channel, cum=60, seq=seq, head=leaf.head, signature=signature
            )
            self.send(name, ledger.ChallengeOmission(sender=PAYER, promise=promise))
        self.send("answer_omission", ledger.AnswerOmission(sender=AGGREGATOR, promised_seq=60, leaf=leaf, proof=proof))
        other = ledger.Commitment(epoch=epoch, root=bytes(32), count=1)
        signed = ledger.SignedCommitment(
            commitment=other, signature=SIGNER.sign_session(commitment_digest(self.commitment_domain, other))
        )
        self.send("prove_bad_head", ledger.ProveBadHead(sender=PAYER, signed=signed))
        self.node.rpc("evm_increaseTime", int(PARAMS.exit_delay_s // 8) + 1)
        subject = subject_of_omission(leaf.channel, 61)
        self.send("finalize", ledger.Finalize(sender=PAYER, fault=ledger.Fault.OMISSION, epoch=epoch, subject=subject))


def measure_distributor(node: Node, levels: int) -> int:
    """Gas of a claim from Uniswap's distributor at this depth: an account's first tokens, an unused word of its bitmap."""
    build = MODULES / "@uniswap" / "merkle-distributor" / "build"

    def code(name: str) -> bytes:
        built: dict[str, Any] = json.loads((build / f"{name}.json").read_text())
        return bytes.fromhex(built["bytecode"].removeprefix("0x"))

    account = "0x" + hashlib.sha256(b"%d" % levels).hexdigest()[:40]
    node_hash = keccak256((5).to_bytes(32, "big") + bytes.fromhex(account[2:]) + (100).to_bytes(32, "big"))
    path = siblings(levels, "uniswap")
    for sibling in path:
        node_hash = keccak256(min(node_hash, sibling) + max(node_hash, sibling))
    types = ["string", "string", "uint256"]
    token = node.send(SENDER, None, code("TestERC20") + encode(types, ["Token", "TKN", 10**6]))["contractAddress"]
    hub = node.send(SENDER, None, code("MerkleDistributor") + encode(["address", "bytes32"], [token, node_hash]))
    distributor = hub["contractAddress"]
    node.send(
        SENDER, token, selector("transfer(address,uint256)") + encode(["address", "uint256"], [distributor, 1000])
    )
    arguments = encode(["uint256", "address", "uint256", "bytes32[]"], [5, account, 100, path])
    claim = selector("claim(uint256,address,uint256,bytes32[])") + arguments
    return int(node.send(SENDER, distributor, claim)["gasUsed"], 16)


def rows(*, quick: bool, command: str) -> list[Row]:
    """The goals of the specification, then what has none. Gas does not vary, so there is one repetition."""
    if not BINARY.exists():
        raise RuntimeError("no anvil: run `make evm`")
    with Node() as node:
        hub = Hub(node)
        hub.measure_claims()
        hub.measure_disputes()
        uniswap = {levels: measure_distributor(node, levels) for levels in (10, 20)}
    gas, peer = hub.gas, {level: f"Uniswap merkle-distributor 1.0.1: {cost:,} gas" for level, cost in uniswap.items()}
    judged = [
        ("claim, proof and acknowledgement, 2^20 leaves", gas["claim 2^20"], 72_000, peer[20]),
        ("claim, proof and acknowledgement, 2^10 leaves", gas["claim 2^10"], 72_000, peer[10]),
        (f"a channel of {BATCH} in a batch, 2^20 leaves", gas["batch"] // BATCH, 25_000, "-"),
        ("claim_direct", gas["claim_direct"], 52_000, "-"),
        (f"a channel of {BATCH} in a direct batch", gas["direct batch"] // BATCH, 25_000, "-"),
        ("submit_epoch", gas["submit_epoch"], 75_000, "-"),
    ]
    shown = [
        "deploy", "deposit", "bond", "open", "first claim_direct of a provider", "challenge_leaf", "answer_leaf",
        "challenge_omission", "answer_omission", "prove_bad_head", "finalize",
    ]  # fmt: skip
    return [
        Row(
            name=f"gas on anvil {VERSION}: {name}", ours=f"{used:,} gas", peer=other, limit=f"{limit:,} gas",
            ratios=(used / limit,), goal=Goal(value=1.0, floor=1.05, at_most=True), command=command,
        )
        for name, used, limit, other in judged
    ] + [
        Row(
            name=f"gas on anvil {VERSION}: {name}", ours=f"{gas[name]:,} gas", peer="-", limit=f"{gas[name]:,} gas",
            ratios=(1.0,), goal=None, command=command,
        )
        for name in shown
    ]  # fmt: skip
