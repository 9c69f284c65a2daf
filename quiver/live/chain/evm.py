"""A chain inside this process: revm by pyrevm, one settlement contract on it, and one `Ledger` view for each account.

It needs no server and forgets everything at the end: for tests, notebooks and networks of one process. Coin costs nothing here: a
deposit brings what it needs. Every transaction is a block of its own, final at once. Gas figures of this engine are too low,
because what was touched once stays warm: measure gas on a node.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from eth_abi.abi import decode, encode
from pyrevm import EVM, BlockEnv, CfgEnv, Env

from quiver.errors import SettlementError, UsageError
from quiver.ids import DIGEST_BYTES, Address, ChannelId
from quiver.live.chain.answers import (
    Log,
    Moved,
    read_bond,
    read_challenge,
    read_channel,
    read_epoch,
    read_logs,
    read_refusal,
)
from quiver.live.chain.artefact import UNIT_DEFAULT, deployment, load_artefact, selector
from quiver.live.chain.calls import FAULT_NUMBERS, encode_call, place_nowhere, proof_of
from quiver.live.chain.reading import decode_call
from quiver.params import Params
from quiver.ports import Clock
from quiver.settlement.accounts import NOBODY, SUPPLY_MAX
from quiver.settlement.epochs import EPOCH_MAX
from quiver.settlement.terms import Terms
from quiver.values.ledger import (
    BondState,
    ChallengeState,
    ChannelState,
    Deposit,
    EpochState,
    Fault,
    LedgerEvent,
    OpenChannel,
    Transaction,
)

# The newest rules that every public chain has by now; the contract is compiled for them.
SPEC = "CANCUN"
_OUTPUT = re.compile(r"output: 0x([0-9a-f]*)")


def hex_address(account: Address) -> str:
    """As engines and nodes want it."""
    return "0x" + account.hex()


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction as a chain's history holds it."""

    sender: Address
    calldata: bytes
    value: int
    "Coin that goes along, in the chain's smallest unit."
    at_ms: int
    "Of its block; the chain counts whole seconds."


class EvmChain:
    """The engine, the contract and the history. `apply` is the pure model's, on a real machine."""

    def __init__(
        self,
        *,
        chain_id: int,
        aggregator: Address,
        params: Params,
        unit: int = UNIT_DEFAULT,
        token: Address = NOBODY,
        bytecode: bytes | None = None,
        engine: EVM | None = None,
    ) -> None:
        self.chain_id = chain_id
        self.aggregator = aggregator
        self.terms = Terms.from_params(params)
        self.events: list[LedgerEvent] = []
        self.engine = engine or EVM(env=Env(cfg=CfgEnv(chain_id=chain_id)), spec_id=SPEC)
        self._unit = unit
        self._token = token
        code = bytes.fromhex(load_artefact().bytecode[2:]) if bytecode is None else bytecode
        deployed = self.engine.deploy(
            hex_address(aggregator),
            deployment(code, aggregator=aggregator, terms=self.terms, token=token, unit=unit),
        )
        self.contract = Address(bytes.fromhex(deployed[2:]))

    def apply(self, transaction: Transaction, now_ms: int) -> LedgerEvent:
        """The event of an accepted transaction; `SettlementError(reason)` and no change for a refused one."""
        call = self.make_call(transaction, now_ms)
        return self._tell(transaction, call, *self._execute(call))

    def make_call(self, transaction: Transaction, now_ms: int) -> Call:
        """The bytes of a transaction as the next block would hold them; `SettlementError` for one that has none."""
        value = 0
        if isinstance(transaction, Deposit) and self._token == NOBODY:
            value = min(transaction.amount, SUPPLY_MAX) * self._unit
        return Call(sender=transaction.sender, calldata=self._calldata(transaction), value=value, at_ms=now_ms)

    def check(self, call: Call) -> None:
        """`SettlementError` if the contract would refuse it now; nothing changes either way."""
        before = self.engine.snapshot()
        try:
            self._execute(call)
        finally:
            self.engine.revert(before)

    def replay(self, call: Call) -> LedgerEvent:
        """The event of a call that was accepted before, elsewhere; `SettlementError` means that it was not."""
        output, moved = self._execute(call)
        transaction = decode_call(call.sender, call.calldata, self._leaf_count)
        if transaction is None:
            raise UsageError(f"0x{call.calldata[:4].hex()} is not a transaction of the contract")
        return self._tell(transaction, call, output, moved)

    def _execute(self, call: Call) -> tuple[bytes, Moved]:
        self._next_block(call.at_ms)
        sender = hex_address(call.sender)
        if call.value:
            self.engine.set_balance(sender, self.coin(call.sender) + call.value)
        try:
            output = self._call(call.sender, call.calldata, value=call.value)
        except SettlementError:
            if call.value:
                self.engine.set_balance(sender, self.coin(call.sender) - call.value)
            raise
        # Before anything else is asked of the engine: it keeps the logs of its last call alone.
        return output, read_logs(self._logs(), stake=self.terms.stake)

    def _tell(self, transaction: Transaction, call: Call, output: bytes, moved: Moved) -> LedgerEvent:
        event = LedgerEvent(
            index=len(self.events), at_ms=call.at_ms // 1000 * 1000, transaction=transaction,
            channel=_channel_of(transaction, output), paid=moved.paid, refunded=moved.refunded, slashed=moved.slashed,
        )  # fmt: skip
        self.events.append(event)
        return event

    def _leaf_count(self, epoch: int) -> int:
        committed = self.epoch(epoch)
        return 0 if committed is None else committed.commitment.count

    def channel(self, channel_id: ChannelId) -> ChannelState | None:
        """State of a channel, or None if it was never opened."""
        if len(channel_id) != DIGEST_BYTES:
            return None
        return read_channel(channel_id, self._view("channel(bytes32)", channel_id))

    def balance(self, account: Address) -> int:
        """Free credits of an account."""
        return self._number("free(address)", account)

    def epoch(self, number: int) -> EpochState | None:
        """The commitment of an epoch, once submitted."""
        return read_epoch(number, self._view("epoch(uint64)", number)) if 0 <= number <= EPOCH_MAX else None

    def bond(self, account: Address) -> BondState | None:
        """What an account has bonded, or None."""
        return read_bond(account, self._view("bond_of(address)", account))

    def challenge(self, fault: Fault, epoch: int, subject: bytes) -> ChallengeState | None:
        """Where an accusation stands, or None."""
        output = self._view("challenge(uint256,uint64,bytes32)", FAULT_NUMBERS[fault], epoch, subject)
        return read_challenge(fault, epoch, subject, output)

    @property
    def deposited(self) -> int:
        """Credits ever deposited."""
        return self._number("deposited()")

    @property
    def burnt(self) -> int:
        """Credits that slashing destroyed; their coin stays in the contract for ever."""
        return self._number("burnt()")

    def coin(self, account: Address) -> int:
        """An account's coin, outside the contract's books, in the chain's smallest unit."""
        return int(self.engine.get_balance(hex_address(account)))

    def _calldata(self, transaction: Transaction) -> bytes:
        carried = proof_of(transaction)
        if carried is not None:
            number, proof = carried
            committed = self.epoch(number)
            if committed is not None and committed.commitment.count != proof.count:
                transaction = place_nowhere(transaction)
        return encode_call(transaction)

    def _next_block(self, now_ms: int) -> None:
        # By what was accepted, not by what was tried: engines with the same history are in the same block.
        self.engine.set_block_env(BlockEnv(number=len(self.events) + 1, timestamp=now_ms // 1000))

    def _view(self, signature: str, *values: object) -> bytes:
        types = [name for name in signature[signature.index("(") + 1 : -1].split(",") if name]
        return self._call(self.aggregator, selector(signature) + encode(types, values), is_static=True)

    def _number(self, signature: str, *values: object) -> int:
        (number,) = decode(["uint256"], self._view(signature, *values))
        return int(number)

    def _call(self, sender: Address, calldata: bytes, *, value: int = 0, is_static: bool = False) -> bytes:
        # Storage that lives for one transaction, such as the lock against reentrancy, must not outlive it.
        self.engine.reset_transient_storage()
        try:
            return self.engine.message_call(
                hex_address(sender), hex_address(self.contract), calldata=calldata, value=value, is_static=is_static
            )
        except RuntimeError as error:
            # The engine tells a revert in words; the contract's own words are inside.
            found = _OUTPUT.search(str(error))
            raise read_refusal(bytes.fromhex(found[1]) if found else b"") from error

    def _logs(self) -> list[Log]:
        result: Any = self.engine.result
        return [Log(topics=tuple(log.data[0]), data=log.data[1]) for log in result.logs]


def _channel_of(transaction: Transaction, output: bytes) -> ChannelId | None:
    if isinstance(transaction, OpenChannel):
        return ChannelId(output)
    ack = getattr(transaction, "acknowledgement", None)
    channel: ChannelId | None = getattr(transaction, "channel", None) if ack is None else ack.channel
    return channel


class EvmLedger:
    """One account's view of an `EvmChain`: the `Ledger` port."""

    def __init__(self, chain: EvmChain, account: Address, *, clock: Clock, opening_cost_credits: int = 0) -> None:
        self.chain_id = chain.chain_id
        self.contract = chain.contract
        self.opening_cost_credits = opening_cost_credits
        self._chain = chain
        self._account = account
        self._clock = clock

    async def submit(self, transaction: Transaction) -> bytes:
        """Id of the transaction; `SettlementError` as the contract says, or `not_the_sender`."""
        if transaction.sender != self._account:
            raise SettlementError("not_the_sender", "a node can only sign for its own account")
        event = self._chain.apply(transaction, self._clock.utc_ms())
        return hashlib.sha256(event.index.to_bytes(8, "big") + msgspec.msgpack.encode(transaction)).digest()

    def _current(self) -> EvmChain:
        """What views look at."""
        return self._chain

    def events(self, cursor: int) -> Sequence[LedgerEvent]:
        """Events with `index >= cursor`, oldest first."""
        return self._current().events[max(cursor, 0) :]

    def channel(self, channel_id: ChannelId) -> ChannelState | None:
        """State of a channel."""
        return self._current().channel(channel_id)

    def balance(self, account: Address) -> int:
        """Free credits of an account."""
        return self._current().balance(account)

    def epoch(self, number: int) -> EpochState | None:
        """The commitment of an epoch, once submitted."""
        return self._current().epoch(number)

    def bond(self, account: Address) -> BondState | None:
        """What stands behind the roots of `account`, or None."""
        return self._current().bond(account)

    def challenge(self, fault: Fault, epoch: int, subject: bytes) -> ChallengeState | None:
        """Where an accusation stands, or None if nobody made it."""
        return self._current().challenge(fault, epoch, subject)
