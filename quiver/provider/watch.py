"""What a provider does about a promise that was not kept, a root that was lied about, and a leaf of its own on trial.

Rules of this file: pure (callers pass `now_ms` and what the ledger says). An accusation costs a stake, so nobody is accused who was
not asked first; an answer earns one, so every one we can give is given. `watcher` does what is decided here.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from enum import Enum, auto

import msgspec

from quiver.ids import Address, ChannelId
from quiver.ports import Batch, Store
from quiver.provider.leaves import KeptLeaf
from quiver.settlement.merkle import hash_leaf
from quiver.settlement.terms import Terms
from quiver.values.ledger import (
    BondState,
    ChallengeLeaf,
    ChallengeState,
    EpochState,
    Leaf,
    LedgerEvent,
    Promise,
    Verdict,
)

PROMISES, CHALLENGED, CURSOR = "provider_promises", "provider_challenged", "provider_cursor"
UNCHECKED = "provider_unchecked"
# Promises remembered a channel: as many epochs as leaves are remembered for.
PROMISES_MAX = 64
# Promises that came before the ledger showed the bond they have to be checked against; beyond it the oldest are dropped.
UNCHECKED_MAX = 1024
# An aggregator that says nothing has this part of the window before its promise counts as broken.
SILENCE_SHARE = 0.5

_ENCODE = msgspec.msgpack.Encoder().encode
_PROMISE = msgspec.msgpack.Decoder(Promise)
_LEAF = msgspec.msgpack.Decoder(Leaf)


class Step(Enum):
    """What to do now about one promise or one challenge."""

    WAIT = auto()
    FORGET = auto()
    CHALLENGE = auto()
    FINALIZE = auto()
    ANSWER = auto()
    WARN = auto()
    "Something should be done and can't be: no credits for the stake, no acknowledgement for an answer."


class Asked(Enum):
    """What the aggregator said when it was asked for the promised leaf."""

    NOT_YET = auto()
    SILENT = auto()
    "It could not be reached."
    REFUSED = auto()
    "It answered without a proof that holds."


def judge_promise(
    promise: Promise,
    *,
    root: EpochState | None,
    kept: KeptLeaf | None,
    asked: Asked,
    bond: BondState | None,
    challenge: ChallengeState | None,
    terms: Terms,
    account: Address,
    free_credits: int,
    now_ms: int,
) -> Step:
    """`root`, `bond` (of its poster) and `challenge` as the ledger shows them; `kept` is our proven leaf of that epoch."""
    if challenge is not None:
        if challenge.verdict is not Verdict.OPEN:
            return Step.FORGET
        return Step.FINALIZE if challenge.challenger == account and now_ms >= challenge.respond_by_ms else Step.WAIT
    if root is None:
        return Step.WAIT
    if kept is not None and kept.leaf.seq >= promise.seq:
        return Step.FORGET
    over_ms = root.submitted_ms + terms.challenge_window_ms
    if now_ms >= over_ms or bond is None:
        # Nothing stands behind the word any more. The money is safe: an acknowledgement alone claims it.
        return Step.FORGET
    if kept is None and asked is not Asked.REFUSED:
        patient = asked is Asked.NOT_YET or now_ms < over_ms - SILENCE_SHARE * terms.challenge_window_ms
        if patient:
            return Step.WAIT
    return Step.CHALLENGE if free_credits >= terms.stake else Step.WARN


def is_too_old(promise: Promise, *, terms: Terms, now_ms: int) -> bool:
    """Whether a root of its epoch that was posted in time can't be challenged any more."""
    over_ms = (promise.epoch + 1) * terms.epoch_ms + terms.submit_grace_ms + terms.challenge_window_ms
    return now_ms >= over_ms


def judge_leaf(leaf: Leaf, *, kept: KeptLeaf | None, challenge: ChallengeState | None, now_ms: int) -> Step:
    """A leaf of our channel that somebody says no payer acknowledged; `kept` is ours of that epoch."""
    if challenge is None or challenge.verdict is not Verdict.OPEN or now_ms >= challenge.respond_by_ms:
        return Step.FORGET
    return Step.ANSWER if kept is not None and kept.leaf == leaf else Step.WARN


class Docket:
    """Promises held and challenges of own leaves, as store rows; a method returns the batch to commit."""

    def __init__(self) -> None:
        self._promises: dict[ChannelId, dict[int, Promise]] = {}
        self._challenged: dict[bytes, Leaf] = {}
        self._unchecked: dict[bytes, Promise] = {}
        self.cursor = 0
        "Ledger events before this one were read."
        self.kept_cursor = 0
        "The same as the store has it."

    @classmethod
    def load(cls, store: Store) -> Docket:
        """As last committed."""
        self = cls()
        for _, row in store.scan(PROMISES):
            promise = _PROMISE.decode(row)
            self._promises.setdefault(promise.channel, {})[promise.epoch] = promise
        self._challenged = {key: _LEAF.decode(row) for key, row in store.scan(CHALLENGED)}
        unchecked = [(key, _PROMISE.decode(row)) for key, row in store.scan(UNCHECKED)]
        self._unchecked = dict(sorted(unchecked, key=lambda pair: pair[1].epoch))
        if (row_cursor := store.get(CURSOR, b"cursor")) is not None:
            self.cursor = self.kept_cursor = int.from_bytes(row_cursor, "big")
        return self

    @property
    def promises(self) -> list[Promise]:
        """By channel, oldest first."""
        return [promise for epochs in self._promises.values() for promise in epochs.values()]

    @property
    def unchecked(self) -> list[Promise]:
        """Promises whose signer the ledger has not shown yet, oldest first."""
        return list(self._unchecked.values())

    @property
    def challenged(self) -> list[Leaf]:
        """Own leaves that are on trial."""
        return list(self._challenged.values())

    def on_promise(self, promise: Promise) -> Batch:
        """An aggregator's word; of one epoch the furthest counts."""
        epochs = self._promises.setdefault(promise.channel, {})
        if (held := epochs.get(promise.epoch)) is not None and held.seq >= promise.seq:
            return []
        epochs[promise.epoch] = promise
        batch: list[tuple[str, bytes, bytes | None]] = [(PROMISES, _key(promise), _ENCODE(promise))]
        while len(epochs) > PROMISES_MAX:
            batch.append((PROMISES, _key(epochs.pop(min(epochs))), None))
        return batch

    def on_unchecked(self, promise: Promise) -> Batch:
        """A word that nothing on our ledger can check yet; of one epoch the furthest counts."""
        key = _key(promise)
        if (held := self._unchecked.get(key)) is not None and held.seq >= promise.seq:
            return []
        self._unchecked[key] = promise
        batch: list[tuple[str, bytes, bytes | None]] = [(UNCHECKED, key, _ENCODE(promise))]
        while len(self._unchecked) > UNCHECKED_MAX:
            oldest = next(iter(self._unchecked))
            del self._unchecked[oldest]
            batch.append((UNCHECKED, oldest, None))
        return batch

    def forget_unchecked(self, promise: Promise) -> Batch:
        """It was checked, or is too old to be. A later word for the same epoch stays."""
        key = _key(promise)
        if self._unchecked.get(key) != promise:
            return []
        del self._unchecked[key]
        return [(UNCHECKED, key, None)]

    def on_events(self, events: Sequence[LedgerEvent], own: Container[ChannelId]) -> Batch:
        """The next ledger events; `own` are our channels."""
        batch: list[tuple[str, bytes, bytes | None]] = []
        for event in events:
            if isinstance(event.transaction, ChallengeLeaf) and event.transaction.leaf.channel in own:
                leaf = event.transaction.leaf
                subject = hash_leaf(leaf)
                self._challenged[subject] = leaf
                batch.append((CHALLENGED, subject, _ENCODE(leaf)))
        if events:
            self.cursor = events[-1].index + 1
        return batch

    def put_cursor(self) -> Batch:
        """Where to read on after a restart."""
        self.kept_cursor = self.cursor
        return [(CURSOR, b"cursor", self.cursor.to_bytes(8, "big"))]

    def forget_promise(self, promise: Promise) -> Batch:
        """It was kept, or nothing can be done about it."""
        self._promises[promise.channel].pop(promise.epoch, None)
        return [(PROMISES, _key(promise), None)]

    def forget_leaf(self, leaf: Leaf) -> Batch:
        """Its trial is over."""
        subject = hash_leaf(leaf)
        self._challenged.pop(subject, None)
        return [(CHALLENGED, subject, None)]


def _key(promise: Promise) -> bytes:
    return promise.channel + promise.epoch.to_bytes(8, "big")
