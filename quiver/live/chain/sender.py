"""One account's transactions on a chain: written down, sent, sent again, made dearer, and told final or reverted.

Rules of this file: nothing is sent that is not durable; the same bytes may be sent any number of times; a nonce that the chain has
not taken gets dearer up to the cap; a nonce that nobody fills is filled with nothing, so that those behind it can move.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from quiver.errors import QuiverError, SettlementError, Unavailable
from quiver.ids import Address
from quiver.live.chain.dry_run import describe, estimate_gas, find_reason, read_market
from quiver.live.chain.envelope import Envelope, Sign
from quiver.live.chain.fees import offer_fees, raise_fees
from quiver.live.chain.history import gas_of
from quiver.live.chain.outbox import Outbox, Waiting
from quiver.live.chain.rpc_client import Rpc, RpcError, quantity
from quiver.live.chain.spent import Spent
from quiver.live.log import note
from quiver.ports import Store

GAS_TRANSFER = 21_000
# Nonces that are filled with nothing: each costs a transfer's gas, and a node that lies about counts could ask for any number.
GAP_MAX = 16

_log = logging.getLogger("quiver.chain")


class Mined(msgspec.Struct, frozen=True, kw_only=True):
    """A final transaction that did what it should."""

    hash: bytes
    contract: Address | None
    "That it made, if it was a deployment."
    gas: int
    "Units it used."
    gas_wei: int
    "What they cost its sender."


class Sender:
    """`now` is a monotonic clock in seconds. Call `step` often, with the last final block.

    What is spent on successful calls of `contract` is in the ledger's events; the gas of all else is written down here.
    """

    def __init__(
        self,
        rpc: Rpc,
        store: Store,
        account: Address,
        sign: Sign,
        *,
        cap_wei: int,
        stuck_after_s: float,
        now: Callable[[], float],
        contract: Address | None = None,
    ) -> None:
        self.rpc = rpc
        self.account = account
        self._cap_wei = cap_wei
        self._stuck_after_s = stuck_after_s
        self._now = now
        self.outbox = Outbox(store, account, chain_id=rpc.chain_id, sign=sign)
        self._turn = asyncio.Lock()
        self._ends: dict[int, asyncio.Future[Mined]] = {}
        self._sent_s: dict[int, float] = {}
        "When the last version of a nonce was first handed to a node by this process."
        self._missed_s: dict[int, float] = {}
        "Since when the chain has a nonce, but nobody shows a transaction of ours that took it."
        self._contract = contract
        self._failure: QuiverError | None = None

    def take_up(self, to: Address, calldata: bytes, value: int) -> asyncio.Future[Mined] | None:
        """The end of the same call, if an earlier process left it behind: it must not be made twice.

        To be asked before anything is awaited: the call may become final in the meantime, and then nobody remembers it.
        """
        nonce = self.outbox.adopt(to, calldata, value)
        return None if nonce is None else self._end_of(nonce)

    async def prepare(self, to: Address | None, calldata: bytes, value: int) -> asyncio.Future[Mined]:
        """Try it, write it down; the future ends when it is final. `SettlementError` if the contract would refuse it."""
        async with self._turn:
            with self.rpc.reading():
                nonce = await self._write(to, calldata, value)
        if self._failure is not None:
            # Nobody looks after it any more: the next process will.
            raise self._failure
        return self._end_of(nonce)

    def _end_of(self, nonce: int) -> asyncio.Future[Mined]:
        return self._ends.setdefault(nonce, asyncio.get_running_loop().create_future())

    async def _write(self, to: Address | None, calldata: bytes, value: int) -> int:
        gas = await estimate_gas(self.rpc, describe(self.account, to, calldata, value))
        fees = offer_fees(await read_market(self.rpc), cap_wei=self._cap_wei)
        balance, mined = await self.rpc.results(
            [("eth_getBalance", (self._hex, "pending")), ("eth_getTransactionCount", (self._hex, "latest"))]
        )
        needed = value + gas * fees.max_wei
        if quantity(balance) < needed:
            raise SettlementError(
                "insufficient_coin",
                f"account {self._hex} has {quantity(balance)} wei on chain {self.rpc.chain_id}, "
                f"but {needed} are needed, {value} of them to hand over: send it some",
            )
        nonce = self.outbox.next_nonce(await self._confirm(quantity(mined)))
        await self.outbox.add(Envelope(nonce=nonce, to=to, value=value, calldata=calldata, gas=gas), fees)
        return nonce

    async def _confirm(self, mined: int) -> int:
        """A count too high would leave nonces that nobody fills, so two nodes have to know it where there are two."""
        if mined > self.outbox.next_nonce(0):
            other = await self.rpc.ask_another("eth_getTransactionCount", self._hex, "latest")
            return mined if other is None else min(mined, quantity(other))
        return mined

    @property
    def _hex(self) -> str:
        return "0x" + self.account.hex()

    async def step(self, final: int) -> None:
        """Look after every nonce in use; ends whose transaction is in block `final` or before are told."""
        if not self.outbox.waiting:
            return
        with self.rpc.reading():
            await self._look_after_all(max(final, 0))

    async def _look_after_all(self, final: int) -> None:
        # A node that lags behind does not know the final block, and refuses.
        taken, mined = (
            quantity(told)
            for told in await self.rpc.results(
                [("eth_getTransactionCount", (self._hex, at)) for at in (hex(final), "latest")]
            )
        )
        await self._fill_gap(taken)
        for nonce, row in list(self.outbox.waiting.items()):
            receipt = await self._receipt(row)
            if receipt is None:
                await self._push(row, is_next=nonce == mined, is_taken=nonce < taken)
            elif quantity(receipt["blockNumber"]) <= final:
                await self._finish(row, receipt)

    async def _receipt(self, row: Waiting) -> dict[str, Any] | None:
        answers = await self.rpc.results([("eth_getTransactionReceipt", ("0x" + one.hex(),)) for one in row.hashes])
        found: dict[str, Any] | None = next((answer for answer in answers if answer is not None), None)
        if found is not None and bytes.fromhex(found["transactionHash"][2:]) not in row.hashes:
            raise ValueError("a receipt of another transaction than was asked for")
        return found

    async def _finish(self, row: Waiting, receipt: dict[str, Any]) -> None:
        envelope = row.envelope
        failure: SettlementError | None = None
        if receipt["status"] != "0x1":
            asked = describe(self.account, envelope.to, envelope.calldata, envelope.value)
            failure = await find_reason(self.rpc, asked, quantity(receipt["blockNumber"]))
            note(
                _log, logging.WARNING, f"a transaction was reverted: {failure}", transaction=receipt["transactionHash"]
            )
        await self.outbox.remove(envelope.nonce, await self._spent(envelope, receipt))
        self._sent_s.pop(envelope.nonce, None)
        self._missed_s.pop(envelope.nonce, None)
        made = receipt.get("contractAddress")
        self._tell(
            envelope.nonce,
            failure
            or Mined(
                hash=bytes.fromhex(receipt["transactionHash"][2:]),
                contract=Address(bytes.fromhex(made[2:])) if made else None,
                gas=quantity(receipt["gasUsed"]),
                gas_wei=gas_of(receipt),
            ),
        )

    async def _spent(self, envelope: Envelope, receipt: dict[str, Any]) -> Spent | None:
        if receipt["status"] == "0x1" and envelope.to is not None and envelope.to == self._contract:
            return None
        block = await self.rpc.call("eth_getBlockByNumber", receipt["blockNumber"], False)
        return Spent(at_ms=1000 * quantity(block["timestamp"]), gas_wei=gas_of(receipt))

    def _tell(self, nonce: int, outcome: Mined | QuiverError) -> None:
        end = self._ends.pop(nonce, None)
        if end is None or end.done():
            return
        if isinstance(outcome, Mined):
            end.set_result(outcome)
        else:
            end.set_exception(outcome)
            # Whoever waited may have gone; then nobody takes it, and that is no mistake.
            end.exception()

    async def _push(self, row: Waiting, *, is_next: bool, is_taken: bool) -> None:
        """It is not in any block that we know of: is it lost, stuck, or was its nonce taken by somebody else?"""
        nonce = row.envelope.nonce
        if is_taken:
            # Receipts may come later than counts, and with another node: who gives up a call too soon makes it twice.
            self.rpc.leave(self.rpc.in_use)
            missed_s = self._missed_s.setdefault(nonce, self._now())
            if self._now() - missed_s >= self._stuck_after_s and await self._receipt(row) is None:
                await self.outbox.remove(nonce)
                self._missed_s.pop(nonce, None)
                note(_log, logging.ERROR, "another program uses this account", account=self._hex, nonce=nonce)
                self._tell(
                    nonce, Unavailable(f"another program used nonce {nonce} of {self._hex}: give each its own key")
                )
            return
        self._missed_s.pop(nonce, None)
        first_s = self._sent_s.setdefault(nonce, self._now())
        if is_next and self._now() - first_s >= self._stuck_after_s:
            row = await self._make_dearer(row)
        await self._send(row)

    async def _make_dearer(self, row: Waiting) -> Waiting:
        nonce = row.envelope.nonce
        self._sent_s[nonce] = self._now()
        # It may be the node that keeps it to itself.
        self.rpc.leave(self.rpc.in_use)
        fees = raise_fees(row.fees, await read_market(self.rpc), cap_wei=self._cap_wei)
        if fees is None:
            note(
                _log, logging.WARNING, "a transaction is stuck and may not cost more: raise [chain] fee_gwei_max",
                nonce=nonce, max_wei=row.fees.max_wei, cap_wei=self._cap_wei,
            )  # fmt: skip
            return row
        await self.outbox.replace(nonce, fees)
        note(_log, logging.WARNING, "a stuck transaction is replaced", nonce=nonce, max_wei=fees.max_wei)
        return self.outbox.waiting[nonce]

    async def _send(self, row: Waiting) -> None:
        """Hand the last version to the node, unless it has it."""
        if await self.rpc.call("eth_getTransactionByHash", "0x" + row.hashes[-1].hex()) is not None:
            return
        (answer,) = await self.rpc.batch([("eth_sendRawTransaction", ("0x" + row.signed[-1].hex(),))])
        if isinstance(answer, RpcError):
            # Known already, mined in this moment, or too cheap: the next step finds out which.
            note(_log, logging.INFO, f"the node did not take a transaction: {answer}", nonce=row.envelope.nonce)

    async def _fill_gap(self, taken: int) -> None:
        """Nonces that a deep reorganisation or a lost store left empty would hold up all later ones for ever.

        What is not final yet is still here, so a nonce between `taken` and our first is in nobody's hands.
        """
        first = min(self.outbox.waiting)
        if taken >= first:
            return
        if first - taken > GAP_MAX:
            raise Unavailable(
                f"nonces {taken} to {first - 1} of {self._hex} are used by nobody on chain {self.rpc.chain_id}, more than any "
                f"reorganisation leaves: a node of [chain] rpc told a wrong count, or tells one now; correct rpc, or send {first - taken} "
                "transactions from this account by other means",
                retry_after_s=60.0,
            )
        fees = offer_fees(await read_market(self.rpc), cap_wei=self._cap_wei)
        for nonce in range(taken, first):
            note(_log, logging.WARNING, "a nonce that nobody fills is filled with nothing", nonce=nonce)
            nothing = Envelope(nonce=nonce, to=self.account, value=0, calldata=b"", gas=GAS_TRANSFER)
            await self.outbox.add(nothing, fees)

    def fail(self, error: QuiverError) -> None:
        """Tell everybody who waits or comes later; what was written down goes on with the next process."""
        self._failure = error
        for nonce in list(self._ends):
            self._tell(nonce, error)
