"""The contract's state as far as it is final, read from a node block by block: what the views of an `RpcLedger` look at.

Rules of this file: a block is final once `confirmations` others follow it, and nothing above it is ever shown. Which keys changed is
said by logs, what they hold by the contract's own views at the final block. If the chain takes a final block back all the same, that
is reported and everything is read again; indices of events after the fork then mean something else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import msgspec
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from quiver.errors import Unavailable, UsageError
from quiver.ids import Address, ChannelId
from quiver.live.chain.answers import read_bond, read_challenge, read_channel, read_epoch
from quiver.live.chain.artefact import selector
from quiver.live.chain.calls import FAULT_NUMBERS
from quiver.live.chain.history import read_events
from quiver.live.chain.log_reader import LogReader
from quiver.live.chain.logs import Touched, find_touched
from quiver.live.chain.rpc_client import BATCH_MAX, Rpc, RpcError, quantity
from quiver.live.log import note
from quiver.settlement.terms import Terms
from quiver.values.ledger import BondState, ChallengeState, ChannelState, EpochState, Fault, LedgerEvent

# Ten blocks of Ethereum, and it happens once in a long while that four of a row are missing.
STILL_S = 120.0

_log = logging.getLogger("quiver.chain")


class State(msgspec.Struct, kw_only=True):
    """Everything that views answer with, at the end of block `number`."""

    number: int
    hash: str = ""
    channels: dict[ChannelId, ChannelState] = {}
    balances: dict[Address, int] = {}
    epochs: dict[int, EpochState] = {}
    leaf_counts: dict[int, int] = {}
    bonds: dict[Address, BondState] = {}
    challenges: dict[tuple[Fault, int, bytes], ChallengeState] = {}


class _Progress(msgspec.Struct, kw_only=True):
    """What was read beyond a state and is not shown yet: logs come range by range, views all at once at the last block."""

    number: int
    hash: str
    is_anew: bool
    "From the first block on, after a reorganisation."
    first_index: int
    leaf_counts: dict[int, int]
    touched: Touched = msgspec.field(default_factory=Touched)
    events: list[LedgerEvent] = []


class Mirror:
    """One contract on one chain. `own` are accounts whose gas is looked up."""

    def __init__(
        self, rpc: Rpc, contract: Address, *, confirmations: int, from_block: int = 0, own: Iterable[Address] = (),
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.rpc = rpc
        self.contract = contract
        self.stake = 0
        self.unit = 0
        self.token = Address(bytes(20))
        self.reorganisations = 0
        "How often final blocks were taken back."
        self._own = set(own)
        self._confirmations = confirmations
        self._from_block = from_block
        self._logs = LogReader(rpc, contract)
        self._progress: _Progress | None = None
        self._now = now
        self._moved_s, self._is_still = now(), False
        self._turn = asyncio.Lock()
        self.state = self._nothing()
        self.events: list[LedgerEvent] = []

    async def check(self, aggregator: Address, terms: Terms) -> None:
        """`UsageError` unless the contract is there and has these terms."""
        code = await self.rpc.call("eth_getCode", self._address, "latest")
        if code in ("0x", None):
            raise UsageError(
                f"chain {self.rpc.chain_id} has no contract at {self._address}: correct [chain] contract or id, or deploy it"
            )
        try:
            told = bytes.fromhex((await self.rpc.call("eth_call", self._question("terms()"), "latest"))[2:])
            held = decode(["address", "address"] + ["uint256"] * 7, told)
        except (RpcError, ValueError, TypeError, DecodingError) as error:
            raise UsageError(
                f"{self._address} on chain {self.rpc.chain_id} is not a QUIVer contract: {error}"
            ) from error
        expected = (
            "0x" + aggregator.hex(), *held[1:3], terms.epoch_ms, terms.submit_grace_ms, terms.exit_delay_ms,
            terms.challenge_window_ms, terms.respond_ms, terms.slash,
        )  # fmt: skip
        if held != expected:
            raise UsageError(
                f"the contract {self._address} on chain {self.rpc.chain_id} has terms {held}, network.toml {expected}: "
                "correct [aggregator] account or [params], or name another contract"
            )
        self.token, self.unit, self.stake = Address(bytes.fromhex(held[1][2:])), held[2], terms.stake

    @property
    def _address(self) -> str:
        return "0x" + self.contract.hex()

    async def poll(self) -> bool:
        """Read what has become final; whether there was anything. `Unavailable` leaves everything as it was."""
        async with self._turn:
            has_moved, asked = False, self.rpc.in_use
            try:
                with self.rpc.reading():
                    has_moved = await self._advance()
            except Unavailable:
                # It refuses, or does not know what it should: another may.
                self.rpc.leave(asked)
                raise
            finally:
                self._watch(has_moved)
            return has_moved

    def _watch(self, has_moved: bool) -> None:
        """A node may answer and yet stand still, refuse, or show a chain that nobody else has: then the next one is asked."""
        now_s = self._now()
        if has_moved:
            self._moved_s, self._is_still = now_s, False
        elif now_s - self._moved_s >= STILL_S:
            if not self._is_still:
                note(
                    _log, logging.WARNING, f"{self.rpc.host} has shown no new final block for {STILL_S:g} s", block=self.state.number,
                    next_is_asked=self.rpc.count > 1,
                )  # fmt: skip
            self._moved_s, self._is_still = now_s, True
            self.rpc.leave(self.rpc.in_use)

    async def _advance(self) -> bool:
        final = quantity(await self.rpc.call("eth_blockNumber")) - self._confirmations
        state, events = self.state, self.events
        is_lost = bool(state.hash) and not await self._is_still_there()
        if is_lost:
            # Before all is read again: its address may lead to another chain now.
            self.rpc.forget_chain()
            if await self._is_still_there():
                return False
            state, events = self._nothing(), []
        if final <= state.number:
            return False
        progress = await self._resume(state, len(events), is_anew=is_lost)
        if progress.number > final:
            return False
        await self._read_history(progress, final)
        state = await self._read_state(state, progress, number=final)
        again = await self._block(final)
        if again is None or again["hash"] != progress.hash:
            # Another branch came in between. Nothing of this was shown; the next round reads it again.
            self._progress = None
            return False
        if is_lost:
            self._report()
        events += progress.events
        self.state, self.events, self._progress = state, events, None
        return True

    async def _resume(self, state: State, first_index: int, *, is_anew: bool) -> _Progress:
        """What an earlier round has read beyond `state` before a node failed, if the chain still has it."""
        progress = self._progress
        if progress is not None and progress.hash and progress.is_anew == is_anew:
            block = await self._block(progress.number)
            if block is not None and block["hash"] == progress.hash:
                return progress
        self._progress = _Progress(
            number=state.number, hash=state.hash, is_anew=is_anew, first_index=first_index, leaf_counts=dict(state.leaf_counts)
        )  # fmt: skip
        return self._progress

    async def _read_history(self, progress: _Progress, final: int) -> None:
        """Logs and events up to block `final`, a range of blocks after the other: what was read is not asked for again."""
        while progress.number < final:
            read = await self._logs.read(progress.number + 1, final)
            events: list[LedgerEvent] = []
            for logs in read.parts():
                touched = find_touched(logs)
                progress.leaf_counts |= touched.epochs
                progress.touched.merge(touched)
                events += await read_events(
                    self.rpc, logs, contract=self.contract, own=self._own, stake=self.stake,
                    leaf_counts=progress.leaf_counts,
                    first_index=progress.first_index + len(progress.events) + len(events),
                )  # fmt: skip
            progress.events += events
            progress.number, progress.hash = read.last, read.hash

    async def _is_still_there(self) -> bool:
        """False if the chain holds another block in place of our last one; a node that lags behind says nothing."""
        block = await self._block(self.state.number)
        if block is None and await self.rpc.call("eth_getCode", self._address, "latest") == "0x":
            raise Unavailable(
                f"chain {self.rpc.chain_id} was set up again without the contract {self._address}: correct [chain]",
                retry_after_s=10.0,
            )
        return block is None or block["hash"] == self.state.hash

    def _report(self) -> None:
        self.reorganisations += 1
        note(
            _log, logging.ERROR, "the chain took back final blocks; all of its state was read again", chain_id=self.rpc.chain_id,
            block=self.state.number, hash=self.state.hash, confirmations=self._confirmations,
        )  # fmt: skip

    def _nothing(self) -> State:
        return State(number=self._from_block - 1)

    async def _read_state(self, state: State, progress: _Progress, *, number: int) -> State:
        """`state` with what was touched as the contract shows it at the end of a block."""
        touched = progress.touched
        channels, epochs, challenges = dict(state.channels), dict(state.epochs), dict(state.challenges)
        at = hex(number)
        async for key, output in self._views("channel(bytes32)", [(one,) for one in touched.channels], at):
            _put(channels, key[0], read_channel(key[0], output))
        async for key, output in self._views("epoch(uint64)", [(one,) for one in touched.epochs], at):
            _put(epochs, key[0], read_epoch(key[0], output))
        keys = {(FAULT_NUMBERS[one[0]], *one[1:]): one for one in touched.challenges}
        async for key, output in self._views("challenge(uint256,uint64,bytes32)", list(keys), at):
            _put(challenges, keys[key], read_challenge(*keys[key], output))
        accounts = dict(touched.accounts)
        for channel in touched.channels:
            accounts |= dict.fromkeys((channels[channel].payer, channels[channel].provider))
        for challenge in touched.challenges:
            accounts |= dict.fromkeys((challenges[challenge].challenger, epochs[challenge[1]].poster))
        balances, bonds = dict(state.balances), dict(state.bonds)
        async for key, output in self._views("free(address)", [(one,) for one in accounts], at):
            balances[key[0]] = int.from_bytes(output, "big")
        async for key, output in self._views("bond_of(address)", [(one,) for one in accounts], at):
            _put(bonds, key[0], read_bond(key[0], output))
        return State(
            number=number, hash=progress.hash, channels=channels, epochs=epochs, challenges=challenges, balances=balances,
            bonds=bonds, leaf_counts=progress.leaf_counts,
        )  # fmt: skip

    async def _views(
        self, signature: str, arguments: Sequence[tuple[Any, ...]], at: str
    ) -> AsyncIterator[tuple[tuple[Any, ...], bytes]]:
        # A batch at a time, so that reading many leaves the loop to others in between.
        for start in range(0, len(arguments), BATCH_MAX):
            some = arguments[start : start + BATCH_MAX]
            answers = await self.rpc.results([("eth_call", (self._question(signature, one), at)) for one in some])
            for one, answer in zip(some, answers, strict=True):
                yield one, bytes.fromhex(answer[2:])

    def _question(self, signature: str, values: tuple[Any, ...] = ()) -> dict[str, str]:
        types = [name for name in signature[signature.index("(") + 1 : -1].split(",") if name]
        return {"to": self._address, "data": "0x" + (selector(signature) + encode(types, values)).hex()}

    async def _block(self, number: int) -> dict[str, Any] | None:
        block: dict[str, Any] | None = await self.rpc.call("eth_getBlockByNumber", hex(number), False)
        return block


def _put(states: dict[Any, Any], key: Any, state: Any) -> None:
    """None is what a key holds that a reorganisation took away."""
    if state is None:
        states.pop(key, None)
    else:
        states[key] = state
