"""What an operator has to look after, because the node can't help it alone: told once for as long as it holds, and kept in the store.

Rules of this file: what is kept has a bound, in number and in length. A node that starts again takes over what it was concerned
about; what it does not find again within an hour has ended while it was away.
"""

from __future__ import annotations

import asyncio

import msgspec

from quiver import trace
from quiver.errors import Unavailable
from quiver.ports import Store
from quiver.runtime import Nursery, Runtime

TABLE, KEY = "concerns", b"held"
# A row is read by people: who has more to look after than this begins with the oldest.
KEPT_MAX = 64
# Errors of others stand in them.
TEXT_MAX = 1000
TAKEN_OVER_S = 3600.0


class Concern(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to look after."""

    subject: str
    detail: str
    fix: str
    "What to do."
    since_ms: int

    @property
    def text(self) -> str:
        """In one sentence."""
        return f"{self.detail}: {self.fix}"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The row."""

    concerns: list[Concern] = []
    "Oldest first."
    more: int = 0
    "Further ones that are not kept."


def read_concerns(store: Store) -> Held:
    """As last kept."""
    return decode_concerns(store.get(TABLE, KEY))


def decode_concerns(row: bytes | None) -> Held:
    """The row, or none."""
    return Held() if row is None else msgspec.msgpack.decode(row, type=Held)


class Concerns:
    """By subject. Each is a `SettlementWarned` event when it begins or changes. `run`, a task of their owner, keeps them."""

    def __init__(self, runtime: Runtime) -> None:
        self.by_subject = {one.subject: one for one in read_concerns(runtime.store).concerns}
        self._taken_over = dict.fromkeys(self.by_subject)
        self._changed = asyncio.Event()
        self._runtime = runtime

    @property
    def health(self) -> str | None:
        """None when well, otherwise what is wrong and what to do."""
        return "; ".join(concern.text for concern in self.by_subject.values()) or None

    def warn(self, subject: str, detail: str, fix: str) -> None:
        """It holds from now on."""
        runtime, held = self._runtime, self.by_subject.get(subject)
        since_ms = runtime.clock.utc_ms() if held is None else held.since_ms
        concern = Concern(subject=subject, detail=_cut(detail), fix=_cut(fix), since_ms=since_ms)
        # Said again in this life: the log of the last one may be gone.
        is_news = concern != held or subject in self._taken_over
        self._taken_over.pop(subject, None)
        if is_news:
            self.by_subject[subject] = concern
            self._changed.set()
            runtime.trace.emit(
                trace.SettlementWarned(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, subject=subject, detail=concern.text
                )
            )

    def clear(self, subject: str) -> None:
        """It holds no more."""
        self._taken_over.pop(subject, None)
        if self.by_subject.pop(subject, None) is not None:
            self._changed.set()

    async def run(self) -> None:
        """Keep each change, and end what was taken over and not found again."""
        async with Nursery() as nursery:
            nursery.start(self._keep())
            await self._runtime.clock.sleep(TAKEN_OVER_S)
            for subject in list(self._taken_over):
                self.clear(subject)

    async def _keep(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            concerns = list(self.by_subject.values())
            held = Held(concerns=concerns[:KEPT_MAX], more=max(0, len(concerns) - KEPT_MAX))
            row = msgspec.msgpack.encode(held) if concerns else None
            try:
                await self._runtime.store.commit([(TABLE, KEY, row)])
            except Unavailable:
                # A store that fails takes nothing any more: the log has the concern, and the reason.
                continue


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 3] + "..."
