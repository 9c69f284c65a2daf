"""The contract on any chain with JSON-RPC nodes, for one account: the `Ledger` port.

Views show what is final (see `mirror`), so they answer at once and may lag behind while no node answers; that is logged. A submission
returns once its transaction is final, and survives a crash (see `sender`). Credits are bought with the chain's coin or its token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from eth_abi.abi import encode

from quiver.errors import QuiverError, SettlementError, Unavailable, UsageError
from quiver.ids import Address, ChannelId
from quiver.live.chain.artefact import selector
from quiver.live.chain.calls import encode_call, place_nowhere, proof_of
from quiver.live.chain.mirror import Mirror
from quiver.live.chain.rpc_client import quantity
from quiver.live.chain.sender import Mined, Sender
from quiver.live.log import note
from quiver.settlement.accounts import NOBODY, check_amount
from quiver.values.ledger import (
    BondState,
    ChallengeState,
    ChannelState,
    Deposit,
    EpochState,
    Fault,
    LedgerEvent,
    Transaction,
)

RETRY_S_MAX = 30.0

_log = logging.getLogger("quiver.chain")


class RpcLedger:
    """`start` before use, `close` after it. Several may share a mirror: one a chain and contract is enough for a process.

    `on_event` hears each final event of this account, for its trace. Without a sender it only looks.
    """

    def __init__(
        self,
        mirror: Mirror,
        sender: Sender | None,
        *,
        poll_s: float,
        opening_cost_credits: int = 0,
        on_event: Callable[[LedgerEvent], None] | None = None,
    ) -> None:
        self.chain_id = mirror.rpc.chain_id
        self.contract = mirror.contract
        self.opening_cost_credits = opening_cost_credits
        self._mirror = mirror
        self._sender = sender
        self._poll_s = poll_s
        self._on_event = on_event
        self._told = 0
        self._wake = asyncio.Event()
        self._deposits = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the contract's state, then keep up with it. `Unavailable` if no node answers."""
        for left in reversed(range(self._mirror.rpc.count)):
            try:
                await self._mirror.poll()
                break
            except Unavailable:
                # A node that refuses or talks nonsense is no reason not to start while there is another, which is asked next.
                if not left:
                    raise
        self._told = len(self._mirror.events)
        self._loop = asyncio.create_task(self._run(), name="ledger")

    async def _run(self) -> None:
        wait_s = self._poll_s
        while True:
            try:
                await self._step()
            except QuiverError as error:
                note(
                    _log,
                    logging.WARNING,
                    f"the ledger is behind: {error}",
                    block=self._mirror.state.number,
                    retry_s=wait_s,
                )
                wait_s = min(2 * wait_s, RETRY_S_MAX)
            except Exception as error:
                _log.exception("a bug ended the ledger's loop")
                self._fail(Unavailable(f"the ledger's loop ended: {type(error).__name__}: {error}"))
                raise
            else:
                wait_s = self._poll_s
            self._wake.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _step(self) -> None:
        await self._mirror.poll()
        events = self._mirror.events
        if self._sender is None:
            return
        # After a reorganisation there may be fewer.
        for event in events[self._told :]:
            if self._on_event is not None and event.transaction.sender == self._sender.account:
                self._on_event(event)
        self._told = len(events)
        await self._sender.step(self._mirror.state.number)

    def _fail(self, error: QuiverError) -> None:
        if self._sender is not None:
            self._sender.fail(error)

    async def submit(self, transaction: Transaction) -> bytes:
        """Hash of the transaction once it is final. `SettlementError` by the contract's reason, `not_the_sender` or
        `insufficient_coin`; `Unavailable` while no node answers, and then nothing was sent.
        """  # fmt: skip
        sender = self._need_sender()
        if transaction.sender != sender.account:
            raise SettlementError("not_the_sender", "a node can only sign for its own account")
        calldata = encode_call(self._placed(transaction))
        if isinstance(transaction, Deposit):
            return await self._deposit(transaction, calldata)
        return (await self._send(self.contract, calldata)).hash

    def _need_sender(self) -> Sender:
        if self._sender is None:
            raise UsageError("this ledger only looks: it was opened without a store")
        return self._sender

    def _placed(self, transaction: Transaction) -> Transaction:
        carried = proof_of(transaction)
        if carried is not None:
            committed = self.epoch(carried[0])
            if committed is not None and committed.commitment.count != carried[1].count:
                return place_nowhere(transaction)
        return transaction

    async def _deposit(self, deposit: Deposit, calldata: bytes) -> bytes:
        check_amount(deposit.amount)
        price = deposit.amount * self._mirror.unit
        if self._mirror.token == NOBODY:
            return (await self._send(self.contract, calldata, price)).hash
        # One of an earlier process needs no allowance, which could take so long to get that the deposit is forgotten by then.
        if (left := self._taken_up(self.contract, calldata, 0)) is not None:
            return (await asyncio.shield(left)).hash
        # An allowance is one number: two deposits at once would overwrite each other's.
        async with self._deposits:
            await self._allow(price)
            return (await self._send(self.contract, calldata)).hash

    async def _allow(self, price: int) -> None:
        """Exactly the price: a contract should not be able to take more, even ours."""
        owner, spender = self._need_sender().account, self.contract
        question = selector("allowance(address,address)") + encode(["address"] * 2, [owner, spender])
        asked = {"to": "0x" + self._mirror.token.hex(), "data": "0x" + question.hex()}
        with self._mirror.rpc.reading():
            allowed = quantity(await self._mirror.rpc.call("eth_call", asked, "latest"))
        if allowed < price:
            approval = selector("approve(address,uint256)") + encode(["address", "uint256"], [spender, price])
            await self._send(self._mirror.token, approval)

    def _taken_up(self, to: Address, calldata: bytes, value: int) -> asyncio.Future[Mined] | None:
        if self._loop is None or self._loop.done():
            raise Unavailable("the ledger is not running: its log says why")
        return self._need_sender().take_up(to, calldata, value)

    async def _send(self, to: Address, calldata: bytes, value: int = 0) -> Mined:
        if (left := self._taken_up(to, calldata, value)) is not None:
            return await asyncio.shield(left)
        # Whoever stops waiting does not take it back: half-written it would be a nonce that nobody fills.
        end = await asyncio.shield(asyncio.ensure_future(self._need_sender().prepare(to, calldata, value)))
        self._wake.set()
        return await asyncio.shield(end)

    def events(self, cursor: int) -> Sequence[LedgerEvent]:
        """Final events with `index >= cursor`, oldest first."""
        return self._mirror.events[max(cursor, 0) :]

    def channel(self, channel_id: ChannelId) -> ChannelState | None:
        """Final state of a channel."""
        return self._mirror.state.channels.get(channel_id)

    def balance(self, account: Address) -> int:
        """Final free credits of an account."""
        return self._mirror.state.balances.get(account, 0)

    def epoch(self, number: int) -> EpochState | None:
        """The commitment of an epoch, once it is final."""
        return self._mirror.state.epochs.get(number)

    def bond(self, account: Address) -> BondState | None:
        """What stands behind the roots of `account`, or None."""
        return self._mirror.state.bonds.get(account)

    def challenge(self, fault: Fault, epoch: int, subject: bytes) -> ChallengeState | None:
        """Where an accusation stands, or None if nobody made it."""
        return self._mirror.state.challenges.get((fault, epoch, subject))

    async def look(self, account: Address) -> dict[str, int]:
        """The chain as its node sees it now, and what an account has outside the contract."""
        who = "0x" + account.hex()
        head, coin, mined, pending = await self._mirror.rpc.results(
            [
                ("eth_blockNumber", ()), ("eth_getBalance", (who, "latest")), ("eth_getTransactionCount", (who, "latest")),
                ("eth_getTransactionCount", (who, "pending")),
            ]
        )  # fmt: skip
        with self._mirror.rpc.reading():
            return {
                "block": quantity(head), "final_block": self._mirror.state.number, "coin_wei": quantity(coin),
                "transactions_waiting": quantity(pending) - quantity(mined),
            }  # fmt: skip

    async def close(self) -> None:
        """Stop keeping up. What is under way is in the store and goes on with the next process."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self._fail(Unavailable("the node stops; the transaction is written down and goes on at the next start"))
        await self._mirror.rpc.close()
