"""Can others dial us? Nobody can tell by himself: a node asks its peers to dial it back, and counts what they say.

`Vote` decides, `Reachability` asks. One peer may lie, or be behind the same wall as we are, so several are asked, and of each
only the last word counts. There is no relay in QUIVer: a node that nobody can dial asks others, and serves nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from enum import StrEnum

from quiver.errors import QuiverError
from quiver.ids import PeerId
from quiver.live.libp2p.host import Host
from quiver.ports import Clock
from quiver.values.dialback import DialBackAnswer, DialBackQuestion, Outcome
from quiver.values.identify import Identify
from quiver.wire import multiaddr
from quiver.wire.protocols import DIALBACK

# Peers whose word is taken; an odd number, so that they never end in a draw.
VOTERS = 3
# A dial takes its helper 5 s, and others may be before us.
ANSWER_TIMEOUT_S = 20.0
# Ask again: soon while nobody has said a word or we cannot be reached, at leisure when all is well (routers change).
RETRY_S, REVIEW_S = 10.0, 600.0
# Of our own addresses.
ADDRESSES_MAX = 4


class State(StrEnum):
    """What is known."""

    UNKNOWN = "unknown"
    "Nobody has dialled us back yet."
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


class Vote:
    """The last word of each voter on each address. Rules of this class: no I/O and no clock."""

    def __init__(self) -> None:
        self._said: dict[bytes, dict[PeerId, tuple[bool, str]]] = {}

    def on_answer(self, peer: PeerId, address: bytes, answer: DialBackAnswer) -> None:
        """A refusal says nothing about us."""
        if answer.outcome is not Outcome.REFUSED:
            said = self._said.setdefault(address, {})
            said.pop(peer, None)
            said[peer] = (answer.outcome is Outcome.REACHED, answer.reason)
            while len(said) > VOTERS:
                del said[next(iter(said))]

    def voters(self) -> set[PeerId]:
        """Everybody whose word counts."""
        return {peer for said in self._said.values() for peer in said}

    def reached(self) -> list[bytes]:
        """Addresses at which most voters got through."""
        return [address for address, said in self._said.items() if 2 * sum(did for did, _ in said.values()) > len(said)]

    def state(self) -> State:
        """One good address is enough."""
        if not self._said:
            return State.UNKNOWN
        return State.REACHABLE if self.reached() else State.UNREACHABLE

    def reasons(self) -> list[str]:
        """What those said who did not get through, each thing once."""
        reasons = [reason for said in self._said.values() for did, reason in said.values() if not did and reason]
        return list(dict.fromkeys(reasons))


class Reachability:
    """On a started host. `state` is what is known now; `await run()` keeps it true.

    `on_change(state)` hears of each change, and once if nothing is known after the first round.
    """

    def __init__(self, host: Host, clock: Clock, *, on_change: Callable[[State], None]) -> None:
        self._host = host
        self._clock = clock
        self._on_change = on_change
        self._vote = Vote()
        self.state = State.UNKNOWN
        self._news = asyncio.Event()
        self._seen: dict[PeerId, None] = {}
        "Asked in this round."
        host.identify.listeners.append(self._on_identified)

    # ---- what to tell people

    def detail(self) -> str:
        """The state and what was found, in one line."""
        if self.state is State.REACHABLE:
            where = ", ".join(multiaddr.to_text(address) for address in self._vote.reached())
            return f"{len(self._vote.voters())} peers dialled us back; they got through at {where}"
        if self.state is State.UNREACHABLE:
            return f"{len(self._vote.voters())} peers dialled us back and did not get through ({'; '.join(self._vote.reasons())[:400]})"
        return "no peer has dialled us back yet"

    def advice(self) -> str:
        """What an operator should do about it; empty when all is well."""
        if self.state is State.REACHABLE and self._host.local_info().addresses:
            return ""
        if self.state is State.REACHABLE:
            found = ", ".join(f'"{multiaddr.to_text(address)}"' for address in self._vote.reached())
            return f"nobody is told where to dial: set announce = [{found}] in [transport]"
        kinds = " and ".join({"quic": "UDP", "tcp": "TCP"}[kind] for kind in self._host.kinds)
        return (
            f"open {kinds} port {self._host.port} in firewall and router, and set announce in [transport] to the address the world "
            'sees; or mode = "server" if you know that others get through. There is no relay'
        )

    # ---- asking

    def _on_identified(self, peer: PeerId, told: Identify) -> None:
        if self._host.wire_id(DIALBACK) in told.protocols:
            self._news.set()

    def addresses(self) -> tuple[bytes, ...]:
        """What we announce; without any, the IPs at which peers see us with the ports we listen on."""
        own = self._host.local_info().addresses
        if not own:
            own = tuple(dict.fromkeys(self._guesses()))
        return own[:ADDRESSES_MAX]

    def _guesses(self) -> Iterable[bytes]:
        for peer in self._host.swarm.peers:
            told = self._host.identify.known.get(peer)
            observed = told.observed_address if told is not None else None
            if observed is not None:
                where = multiaddr.quic_endpoint(observed) or multiaddr.tcp_endpoint(observed)
                if where is not None:
                    yield from self._host.bound_at(where[0])

    def _helpers(self) -> list[PeerId]:
        """Connected peers that dial back and were not asked in this round."""
        known, wire_id = self._host.identify.known, self._host.wire_id(DIALBACK)
        return [
            peer for peer in self._host.swarm.peers
            if peer not in self._seen and peer in known and wire_id in known[peer].protocols
        ]  # fmt: skip

    async def run(self) -> None:
        """Ask whoever comes until `VOTERS` have answered, again and again, until cancelled."""
        is_first = True
        while True:
            self._seen.clear()
            answered = 0
            ends_s = self._clock.now() + RETRY_S
            while answered < VOTERS and (helper := await self._next_helper(ends_s)) is not None:
                self._seen[helper] = None
                answered += await self._ask(helper)
            if is_first and self.state is State.UNKNOWN:
                self._on_change(self.state)
            is_first = False
            settled = self.state is State.REACHABLE and answered
            await self._clock.sleep(REVIEW_S if settled else max(0.0, ends_s - self._clock.now()))

    async def _next_helper(self, ends_s: float) -> PeerId | None:
        """The next peer to ask; None when nobody new comes in time."""
        while True:
            self._news.clear()
            if helpers := self._helpers():
                return helpers[0]
            left_s = ends_s - self._clock.now()
            if left_s <= 0.0:
                return None
            try:
                async with self._clock.deadline(left_s):
                    await self._news.wait()
            except QuiverError:
                return None

    async def _ask(self, peer: PeerId) -> bool:
        """Whether the peer tried at least one address."""
        tried = False
        for address in self.addresses():
            try:
                answer = await self._host.rpc(
                    peer, DIALBACK, DialBackQuestion(address=address), timeout_s=ANSWER_TIMEOUT_S
                )
            except QuiverError:
                continue
            if isinstance(answer, DialBackAnswer):
                tried |= answer.outcome is not Outcome.REFUSED
                self._vote.on_answer(peer, address, answer)
                self._update()
        return tried

    def _update(self) -> None:
        state = self._vote.state()
        if state is not self.state:
            self.state = state
            self._on_change(state)
