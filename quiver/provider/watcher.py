"""Reads the ledger for what concerns this provider, and does what `watch` decides: accuse, answer, finalize, warn.

Rules of this file: it awaits and moves values; every rule is in watch.
"""

from __future__ import annotations

from quiver.concerns import Concerns
from quiver.errors import PeerError, QuiverError, SettlementError
from quiver.identity.peer_id import peer_id_text
from quiver.ids import Address, ChannelId, PeerId
from quiver.ports import Batch
from quiver.provider.channel import ProviderChannel
from quiver.provider.leaves import Leaves
from quiver.provider.watch import Asked, Docket, Step, is_too_old, judge_leaf, judge_promise
from quiver.receipts.promises import check_promise, verify_commitment, verify_promise
from quiver.runtime import Runtime
from quiver.settlement.challenges import WHOLE_EPOCH, subject_of_omission
from quiver.settlement.merkle import hash_leaf
from quiver.settlement.terms import Terms
from quiver.trace import EvidenceRecorded
from quiver.values.ledger import (
    AnswerLeaf,
    BondState,
    ChallengeOmission,
    Fault,
    Finalize,
    Leaf,
    Promise,
    ProveBadHead,
    SignedCommitment,
    Transaction,
)
from quiver.values.receipt import Acknowledgement

# After a restart at most this many events are read again, so that not every round of a quiet provider costs a write.
EVENTS_REREAD_MAX = 1000
REFUSED_FIX = "`settle dispute` shows where it stands; the next round decides anew"


class Watcher:
    """Shares the settler's leaves and channels. `concerns` say what an operator has to look after."""

    def __init__(
        self, runtime: Runtime, channels: dict[ChannelId, ProviderChannel], leaves: Leaves, *, aggregator: PeerId, poster: Address
    ) -> None:  # fmt: skip
        """`poster` is whose bond answers for what `aggregator` promises."""
        self.docket = Docket.load(runtime.store)
        self.concerns = Concerns(runtime)
        self._runtime = runtime
        self._aggregator, self._poster = aggregator, poster
        self._channels = channels
        self._leaves = leaves
        self._terms = Terms.from_params(runtime.params)
        self._asked: dict[tuple[ChannelId, int], Asked] = {}
        self._bad_heads: dict[int, SignedCommitment] = {}

    async def on_promise(self, promise: Promise, ack: Acknowledgement, epoch: int) -> Batch:
        """The aggregator took receipts up to `ack` into `epoch`, and this is its word for it. What to commit.

        A word that no bond answers for is none: it would be found out when it has to be accused, and that is too late.
        """
        if not self._terms.slash:
            return []
        try:
            check_promise(promise, ack, epoch)
        except PeerError as error:
            self._blame(error)
            return []
        bond = self._runtime.ledger.bond(self._poster)
        # Without one our view of the ledger may be behind the aggregator's: who promised is known once it is not.
        return self.docket.on_unchecked(promise) if bond is None else await self._take(promise, bond)

    async def _take(self, promise: Promise, bond: BondState) -> Batch:
        """The batch for a promise that `bond` answers for; none, and evidence, for any other."""
        runtime = self._runtime
        try:
            await verify_promise(runtime.verifier, runtime.ledger, promise, bond.signer)
        except PeerError as error:
            self._blame(error)
            return []
        self.concerns.clear("promises")
        return self.docket.on_promise(promise)

    def _blame(self, error: PeerError) -> None:
        name = self._record(error)
        self.concerns.warn(
            "promises",
            f"{peer_id_text(self._aggregator)} promises what its bond does not answer for ({name})",
            "tell its operator; what it then leaves out of a root is claimed directly, and nobody is slashed for it",
        )

    async def _check_waiting(self) -> None:
        """Promises that came before the bond they are checked against, which the ledger may show by now."""
        runtime, bond = self._runtime, self._runtime.ledger.bond(self._poster)
        for promise in self.docket.unchecked:
            batch: list[tuple[str, bytes, bytes | None]] = []
            if bond is not None:
                batch += await self._take(promise, bond)
            elif not is_too_old(promise, terms=self._terms, now_ms=runtime.clock.utc_ms()):
                continue
            await runtime.store.commit([*batch, *self.docket.forget_unchecked(promise)])

    def _record(self, error: PeerError) -> str:
        runtime, name = self._runtime, str(error).partition(":")[0]
        runtime.trace.emit(
            EvidenceRecorded(
                at_s=runtime.clock.now(),
                node=runtime.signer.peer_id,
                peer=self._aggregator,
                kind=name,
                detail=str(error),
            )
        )
        return name

    def on_asked(self, channel: ChannelId, epoch: int, asked: Asked) -> None:
        """The aggregator was asked for this leaf, its root being posted."""
        self._asked[channel, epoch] = asked

    def on_commitment(self, signed: SignedCommitment) -> None:
        """A signed commitment an aggregator handed out; the ledger's may be another."""
        posted = self._runtime.ledger.epoch(signed.commitment.epoch)
        if signed.signature and posted is not None and posted.commitment != signed.commitment:
            self._bad_heads[signed.commitment.epoch] = signed

    async def look(self) -> None:
        """One round."""
        if not self._terms.slash:
            # Nothing stands behind a root in this network: no word is broken that anybody answers for.
            return
        await self._read_events()
        await self._check_waiting()
        for promise in self.docket.promises:
            await self._judge_promise(promise)
        for leaf in self.docket.challenged:
            await self._judge_leaf(leaf)
        for epoch, signed in list(self._bad_heads.items()):
            if await self._is_head_over(epoch, signed):
                del self._bad_heads[epoch]
                self.concerns.clear(_head(epoch))

    async def _read_events(self) -> None:
        ledger = self._runtime.ledger
        batch: list[tuple[str, bytes, bytes | None]] = []
        began = self.docket.kept_cursor
        while events := ledger.events(self.docket.cursor):
            batch += self.docket.on_events(events, self._channels)
        if batch or self.docket.cursor - began >= EVENTS_REREAD_MAX:
            await self._runtime.store.commit([*batch, *self.docket.put_cursor()])

    async def _judge_promise(self, promise: Promise) -> None:
        runtime, ledger = self._runtime, self._runtime.ledger
        key, subject = (promise.channel, promise.epoch), subject_of_omission(promise.channel, promise.seq)
        root = ledger.epoch(promise.epoch)
        name = f"promise for epoch {promise.epoch}, channel {promise.channel.hex()}"
        step = judge_promise(
            promise, root=root, kept=self._leaves.find(*key), asked=self._asked.get(key, Asked.NOT_YET),
            bond=None if root is None else ledger.bond(root.poster),
            challenge=ledger.challenge(Fault.OMISSION, promise.epoch, subject), terms=self._terms,
            account=runtime.signer.account, free_credits=ledger.balance(runtime.signer.account),
            now_ms=runtime.clock.utc_ms(),
        )  # fmt: skip
        if step is Step.CHALLENGE:
            await self._send(ChallengeOmission(sender=runtime.signer.account, promise=promise), name)
        elif step is Step.FINALIZE:
            await self._send(
                Finalize(sender=runtime.signer.account, fault=Fault.OMISSION, epoch=promise.epoch, subject=subject),
                name,
            )
        elif step is Step.WARN:
            self.concerns.warn(
                name, f"{name} is broken, and an accusation needs {self._terms.stake} free credits", "deposit them"
            )
        elif step is Step.FORGET:
            await runtime.store.commit(self.docket.forget_promise(promise))
            self._asked.pop(key, None)
            self.concerns.clear(name)

    async def _is_head_over(self, epoch: int, signed: SignedCommitment) -> bool:
        """Two roots by one signer are proof, once; one that somebody made up is worth no transaction."""
        runtime, ledger = self._runtime, self._runtime.ledger
        posted = ledger.epoch(epoch)
        bond = None if posted is None else ledger.bond(posted.poster)
        if posted is None or bond is None or ledger.challenge(Fault.HEAD, epoch, WHOLE_EPOCH) is not None:
            return True
        if runtime.clock.utc_ms() >= posted.submitted_ms + self._terms.challenge_window_ms:
            return True
        try:
            await verify_commitment(runtime.verifier, ledger, signed, bond.signer)
        except PeerError as error:
            self._record(error)
            return True
        return await self._send(ProveBadHead(sender=runtime.signer.account, signed=signed), _head(epoch))

    async def _judge_leaf(self, leaf: Leaf) -> None:
        runtime = self._runtime
        name = f"leaf of epoch {leaf.epoch}, channel {leaf.channel.hex()}"
        kept = self._leaves.find(leaf.channel, leaf.epoch)
        step = judge_leaf(
            leaf, kept=kept, challenge=runtime.ledger.challenge(Fault.LEAF, leaf.epoch, hash_leaf(leaf)),
            now_ms=runtime.clock.utc_ms(),
        )  # fmt: skip
        if step is Step.ANSWER and kept is not None:
            answer = AnswerLeaf(sender=runtime.signer.account, leaf=leaf, signature=kept.acknowledgement.signature)
            await self._send(answer, name)
        elif step is Step.WARN:
            self.concerns.warn(
                name, f"{name} is challenged, and the acknowledgement that answers is not here", "ask its aggregator"
            )
        elif step is Step.FORGET:
            await runtime.store.commit(self.docket.forget_leaf(leaf))
            self.concerns.clear(name)

    async def _send(self, transaction: Transaction, name: str) -> bool:
        """Whether it was taken. A refusal is a warning: the next round decides anew from what the ledger then shows."""
        try:
            await self._runtime.ledger.submit(transaction)
            self.concerns.clear(name)
            return True
        except SettlementError as error:
            self.concerns.warn(name, f"{name}: {type(transaction).__name__} was refused: {error}", REFUSED_FIX)
        except QuiverError as error:
            self.concerns.warn(
                name,
                f"{name}: {type(transaction).__name__} could not be sent: {error}",
                "look after the ledger; it is sent again next round",
            )
        return False


def _head(epoch: int) -> str:
    return f"head of epoch {epoch}"
