"""The contract's logs from a node, a range of blocks at a time.

Rules of this file: a range is believed only if the node knows its last block, and each log only if it is the contract's own and of
the range.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec

from quiver.errors import Unavailable
from quiver.ids import Address
from quiver.live.chain.logs import ChainLog, read_log
from quiver.live.chain.rpc_client import Rpc, RpcError

# Blocks one question covers; halved where a node finds that too many.
BLOCKS_MAX = 2_000
# And more again with each answer, by an eighth: what was too many may have been a busy node.
RANGE_GROWTH = 8
# Logs that are taken apart before the loop is left to others: some 10 ms.
PART_LOGS = 100


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Logs of whole blocks, oldest first."""

    last: int
    "Block."
    hash: str
    "Of that block."
    logs: list[ChainLog]

    def parts(self) -> Iterator[list[ChainLog]]:
        """The logs in pieces of whole blocks: no transaction is torn."""
        part: list[ChainLog] = []
        for _, logs in groupby(self.logs, key=lambda log: log.block):
            part += logs
            if len(part) >= PART_LOGS:
                yield part
                part = []
        if part:
            yield part


class LogReader:
    """One contract's."""

    def __init__(self, rpc: Rpc, contract: Address) -> None:
        self._rpc = rpc
        self._address = "0x" + contract.hex()
        self._blocks = BLOCKS_MAX

    async def read(self, first: int, final: int) -> Range:
        """From block `first` to `final`, or as far as one answer goes."""
        while True:
            last = min(final, first + self._blocks - 1)
            where = {"address": self._address, "fromBlock": hex(first), "toBlock": hex(last)}
            # Behind one address there may be many nodes, and one that has not come to the last block yet answers with what it has.
            told, block = await self._rpc.batch(
                [("eth_getLogs", (where,)), ("eth_getBlockByNumber", (hex(last), False))]
            )
            if not isinstance(told, RpcError):
                break
            if self._blocks == 1:
                raise told
            self._blocks //= 2
        if block is None or isinstance(block, RpcError):
            raise Unavailable(f"{self._rpc.host} does not know block {last} yet", retry_after_s=2.0)
        self._blocks = min(self._blocks + self._blocks // RANGE_GROWTH + 1, BLOCKS_MAX)
        logs: list[ChainLog] = []
        for start in range(0, len(told), PART_LOGS):
            logs += [self._own(one, first, last) for one in told[start : start + PART_LOGS]]
            await asyncio.sleep(0)
        return Range(last=last, hash=block["hash"], logs=logs)

    def _own(self, data: dict[str, Any], first: int, last: int) -> ChainLog:
        log = read_log(data)
        if data["address"].lower() != self._address or not first <= log.block <= last or data.get("removed"):
            raise ValueError("a log of another contract or block than was asked for")
        return log
