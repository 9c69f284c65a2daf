"""One payer and one provider settle, and an aggregator is accused twice, on the compiled contract in an EVM inside this process.

Keys, receipts, acknowledgements, proofs and transactions are real; only the engine that would compute the answers is left out.
Gas is not measured here, because this engine keeps storage warm and counts too little: `read_gas` reads what anvil measured.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import msgspec
import pandas as pd
from matplotlib.figure import Figure

from experiments import style
from quiver.ids import ChannelId, ModelId, RequestId
from quiver.live.chain.evm import EvmChain
from quiver.params import Params
from quiver.receipts.checks import ChannelTerms, check_receipt
from quiver.receipts.signatures import sign_acknowledgement, sign_receipt
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.units import compute_cost_credits
from quiver.values import ledger
from quiver.values.receipt import Acknowledgement, ChannelHead, ReceiptBody
from sim.plot import COLOURS
from sim.signer import SimSigner

CHAIN_ID = 31337
PARAMS = msgspec.structs.replace(Params.minimal(), exit_delay_s=24.0, slash_credits=100)
PROMPT_PRICE, COMPLETION_PRICE = 100_000, 400_000
PLACES = ("payer", "provider", "aggregator", "watcher", "in channels", "in bonds", "at stake", "burnt")
REPORT = Path(__file__).parents[1] / "docs" / "bench" / "report.md"
T = TypeVar("T")


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Result of a coroutine that never waits: the keys are here."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("the coroutine waits for something")


def read_gas(report: Path = REPORT) -> dict[str, int]:
    """Transaction -> gas, as the committed benchmark report has it from a real node (anvil)."""
    found = re.findall(r"^\| gas on anvil [\d.]+: ([^|]+) \| ([\d,]+) gas", report.read_text("utf-8"), re.MULTILINE)
    return {name.strip(): int(gas.replace(",", "")) for name, gas in found}


class Settling:
    """A payer with a channel of 1,000 credits to a provider, a bonded aggregator, a watcher. Every step adds a row to `rows`."""

    def __init__(self) -> None:
        self.keys = {name: SimSigner(1, name, mode="real") for name in PLACES[:4]}
        self.account = {name: signer.account for name, signer in self.keys.items()}
        self.chain = EvmChain(chain_id=CHAIN_ID, aggregator=self.account["aggregator"], params=PARAMS)
        self.now_ms = 10 * PARAMS.epoch_ms
        self.rows: list[dict[str, Any]] = []
        self.receipts: list[dict[str, Any]] = []
        self._staked = 0
        self._channel: ChannelId | None = None
        for name, amount in (("payer", 1000), ("aggregator", 2000), ("watcher", 100)):
            self.send(f"{name} deposits", ledger.Deposit(sender=self.account[name], amount=amount))
        opened = ledger.OpenChannel(
            sender=self.account["payer"], provider=self.account["provider"], session=self.keys["payer"].session_address,
            amount=1000, nonce=0,
        )  # fmt: skip
        channel = self.send("payer opens a channel", opened).channel
        assert channel is not None
        self.send("aggregator bonds", ledger.Bond(
            sender=self.account["aggregator"], amount=2000, signer=self.keys["aggregator"].session_address,
        ))  # fmt: skip
        self.terms = ChannelTerms(
            chain_id=CHAIN_ID, contract=self.chain.contract, channel=channel,
            provider_key=self.keys["provider"].public_key, payer=self.account["payer"],
        )  # fmt: skip
        self.head = ChannelHead()
        self.leaves: list[ledger.Leaf] = []

    def send(self, step: str, transaction: ledger.Transaction) -> ledger.LedgerEvent:
        """Apply it on the EVM and note where all credits are afterwards."""
        event = self.chain.apply(transaction, self.now_ms)
        kind = type(transaction).__name__
        stake = PARAMS.slash_credits // 10
        self._staked += stake * (kind == "ChallengeLeaf") - stake * (kind in ("AnswerLeaf", "Finalize"))
        self._channel = self._channel or event.channel
        state = None if self._channel is None else self.chain.channel(self._channel)
        bond = self.chain.bond(self.account["aggregator"])
        where = {name: self.chain.balance(account) for name, account in self.account.items()}
        where |= {
            "in channels": 0 if state is None else state.locked - state.paid, "in bonds": 0 if bond is None else bond.amount,
            "at stake": self._staked, "burnt": self.chain.burnt,
        }  # fmt: skip
        self.rows.append({"step": step, "transaction": kind, **where, "deposited": self.chain.deposited})
        return event

    def serve(self, prompt_tokens: int, completion_tokens: int) -> None:
        """One answer: the provider signs a receipt, the payer checks that it is the next one of the channel."""
        number = len(self.receipts) + 1
        amount = compute_cost_credits(
            prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, prompt_price=PROMPT_PRICE,
            completion_price=COMPLETION_PRICE,
        )  # fmt: skip
        terms = self.terms
        body = ReceiptBody(
            chain_id=terms.chain_id, contract=terms.contract, channel=terms.channel, seq=self.head.seq + 1,
            request_id=RequestId(number.to_bytes(16, "big")), provider_key=terms.provider_key, payer=terms.payer,
            request_hash=bytes(32), response_hash=hashlib.sha256(b"answer %d" % number).digest(),
            model=ModelId(bytes(32)), prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, amount=amount,
            cum=self.head.cum + amount, issued_ms=self.now_ms,
        )  # fmt: skip
        self.head = check_receipt(now(sign_receipt(self.keys["provider"], body)), self.head, terms)
        self.receipts.append({
            "seq": body.seq, "prompt tokens": prompt_tokens, "completion tokens": completion_tokens,
            "amount (credits)": amount, "cum (credits)": body.cum, "head": self.head.head.hex()[:16],
        })  # fmt: skip

    def acknowledge(self) -> Acknowledgement:
        """The payer signs once for all receipts so far."""
        return now(sign_acknowledgement(self.keys["payer"], self.terms, self.head))

    def commit(self, ack: Acknowledgement, *, invented_cum: int | None = None) -> ledger.Commitment:
        """The epoch ends and its root is posted: the acknowledged leaf, and one that nobody signed for if told so."""
        epoch = self.now_ms // PARAMS.epoch_ms
        self.now_ms += PARAMS.epoch_ms
        true = ledger.Leaf(epoch=epoch, channel=ack.channel, cum=ack.cum, seq=ack.seq, head=ack.head)
        self.leaves = [true] if invented_cum is None else [true, msgspec.structs.replace(true, cum=invented_cum)]
        self.tree = MerkleTree([hash_leaf(leaf) for leaf in self.leaves])
        commitment = ledger.Commitment(epoch=epoch, root=self.tree.root, count=len(self.leaves))
        self.send(
            "aggregator posts a root", ledger.SubmitEpoch(sender=self.account["aggregator"], commitment=commitment)
        )
        return commitment

    def claim(self, ack: Acknowledgement) -> int:
        """Credits that leaf, proof and acknowledgement brought the provider."""
        proof = self.tree.proof(0)
        return self.send("provider claims", ledger.Claim(
            sender=self.account["provider"], leaf=self.leaves[0], proof=proof, acknowledgement=ack,
        )).paid  # fmt: skip

    def accuse(self, place: int) -> None:
        """The watcher puts up its stake: nobody acknowledged this leaf."""
        self.send("watcher challenges a leaf", ledger.ChallengeLeaf(
            sender=self.account["watcher"], leaf=self.leaves[place], proof=self.tree.proof(place),
        ))  # fmt: skip

    def answer(self, ack: Acknowledgement) -> int:
        """Credits the aggregator earns by showing the payer's signature over the true leaf."""
        return self.send("aggregator answers", ledger.AnswerLeaf(
            sender=self.account["aggregator"], leaf=self.leaves[0], signature=ack.signature,
        )).paid  # fmt: skip

    def let_pass(self, place: int) -> int:
        """Nobody answers in time; credits the bond loses."""
        self.now_ms += round(PARAMS.exit_delay_s * 1000) // 8
        leaf = self.leaves[place]
        return self.send("watcher finalizes", ledger.Finalize(
            sender=self.account["watcher"], fault=ledger.Fault.LEAF, epoch=leaf.epoch, subject=hash_leaf(leaf),
        )).slashed  # fmt: skip

    def journal(self) -> pd.DataFrame:
        """Where all credits are after each step; `total` equals `deposited` in every row, or credits were made or lost."""
        frame = pd.DataFrame(self.rows)
        return frame.assign(total=frame[list(PLACES)].sum(axis=1))

    def figure(self) -> Figure:
        """The journal as stacked bars."""
        frame = self.journal()
        fig, axis = style.subplots(1, 1, figsize=(10, 4.6))
        below = pd.Series(0, index=frame.index)
        for number, place in enumerate(PLACES):
            axis.barh(frame.index, frame[place], left=below, color=COLOURS[number % len(COLOURS)], label=place)
            below += frame[place]
        axis.plot(frame["deposited"], frame.index, "k|", markersize=14, label="deposited")
        axis.set_yticks(frame.index, frame["step"])
        axis.invert_yaxis()
        axis.set_xlabel("credits")
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        plt.close(fig)
        return fig


def read_gas_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Gas of the kinds of transactions in a journal, from the benchmark report of a real node."""
    names = {
        "Deposit": "deposit", "OpenChannel": "open", "Bond": "bond", "SubmitEpoch": "submit_epoch",
        "Claim": "claim, proof and acknowledgement, 2^10 leaves", "ChallengeLeaf": "challenge_leaf",
        "AnswerLeaf": "answer_leaf", "Finalize": "finalize",
    }  # fmt: skip
    gas = read_gas()
    kinds = [kind for kind in names if kind in set(rows["transaction"])]
    return pd.DataFrame({"transaction": kinds, "gas (anvil)": [gas[names[kind]] for kind in kinds],
                         "measured as": [names[kind] for kind in kinds]})  # fmt: skip
