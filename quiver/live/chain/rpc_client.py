"""JSON-RPC to the nodes of one chain: the first that answers is used, the next takes over when it dies.

Rules of this file: every node is asked which chain it serves before it is believed, and again after it failed. An address may hold
an API key, so messages show its host alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientTimeout
from web3 import AsyncHTTPProvider
from web3.types import RPCEndpoint

from quiver.errors import Unavailable, UsageError

REQUEST_TIMEOUT_S = 10.0
# Nodes refuse larger batches; public ones often at 100.
BATCH_MAX = 50
RETRY_AFTER_S = 2.0
# "limit exceeded" (EIP-1474): another node may have some left.
_LIMIT_EXCEEDED = -32005

Request = tuple[str, Sequence[object]]


class RpcError(Unavailable):
    """The node answered, and refused. `data` is what a revert says, if it is one."""

    def __init__(self, error: Any) -> None:
        told = error if isinstance(error, dict) else {"message": str(error)}
        self.code = int(told.get("code") or 0)
        self.message = str(told.get("message", ""))
        self.data = _revert_data(told.get("data"))
        self.is_revert = self.code == 3 or self.data is not None or "revert" in self.message.lower()
        super().__init__(f"the RPC node refuses: {self.message}", retry_after_s=RETRY_AFTER_S)


def _revert_data(data: Any) -> bytes | None:
    # Some nodes put it into an object, some put words in front.
    if isinstance(data, dict):
        data = data.get("data")
    if not isinstance(data, str) or "0x" not in data:
        return None
    try:
        return bytes.fromhex(data[data.index("0x") + 2 :])
    except ValueError:
        return None


class _WrongChain(Exception):
    """A node of another chain."""


class Rpc:
    """`urls` in the order of preference. One event loop."""

    def __init__(self, urls: Sequence[str], chain_id: int) -> None:
        if not urls:
            raise UsageError('[chain] rpc names no node: give the URL of one, as in rpc = ["http://127.0.0.1:8545"]')
        self.chain_id = chain_id
        self._nodes = [
            AsyncHTTPProvider(
                url,
                request_kwargs={"timeout": ClientTimeout(total=REQUEST_TIMEOUT_S)},
                exception_retry_configuration=None,
            )
            for url in urls
        ]
        self._hosts = [urlsplit(url).netloc.rpartition("@")[2] or url for url in urls]
        self._first = 0
        self._checked: set[int] = set()

    @classmethod
    async def discover(cls, url: str) -> Rpc:
        """To whatever chain this node serves."""
        rpc = cls([url], 0)
        try:
            (told,) = await rpc._post(0, [("eth_chainId", ())])
            rpc.chain_id = int(told, 16)
        except (ClientError, TimeoutError, OSError, ValueError, TypeError) as error:
            await rpc.close()
            raise Unavailable(
                f"no node answers at {rpc._hosts[0]} ({error or type(error).__name__}): start one, or correct the URL"
            ) from error
        return rpc

    async def call(self, method: str, *parameters: object) -> Any:
        """The result; `RpcError` if the node refuses, `Unavailable` if none answers."""
        (answer,) = await self._ask([(method, parameters)])
        if isinstance(answer, RpcError):
            raise answer
        return answer

    async def batch(self, requests: Sequence[Request]) -> list[Any]:
        """Results in order; a refusal is an `RpcError` in its place. `Unavailable` if no node answers."""
        answers: list[Any] = []
        for start in range(0, len(requests), BATCH_MAX):
            answers += await self._ask(requests[start : start + BATCH_MAX])
        return answers

    async def results(self, requests: Sequence[Request]) -> list[Any]:
        """The same where a refusal is not expected: the first one is raised."""
        answers = await self.batch(requests)
        for answer in answers:
            if isinstance(answer, RpcError):
                raise answer
        return answers

    async def _ask(self, requests: Sequence[Request]) -> list[Any]:
        failures, strangers = [], 0
        for step in range(len(self._nodes)):
            number = (self._first + step) % len(self._nodes)
            try:
                if number not in self._checked:
                    await self._check(number)
                answers = await self._post(number, requests)
            except _WrongChain as error:
                strangers += 1
                failures.append(f"{self._hosts[number]} {error}")
            except (ClientError, TimeoutError, OSError, ValueError) as error:
                # Whoever comes back may be another.
                self._checked.discard(number)
                failures.append(f"{self._hosts[number]}: {error or type(error).__name__}")
            else:
                self._first = number
                return answers
        if strangers == len(self._nodes):
            raise UsageError(f"{'; '.join(failures)}: correct [chain] id or rpc")
        raise Unavailable(
            f"no node of chain {self.chain_id} answers ({'; '.join(failures)}): start one, or correct [chain] rpc",
            retry_after_s=RETRY_AFTER_S,
        )

    async def _check(self, number: int) -> None:
        (found,) = await self._post(number, [("eth_chainId", ())])
        if isinstance(found, RpcError):
            raise OSError(found.message)
        if int(found, 16) != self.chain_id:
            raise _WrongChain(f"serves chain {int(found, 16)}, not {self.chain_id}")
        self._checked.add(number)

    async def _post(self, number: int, requests: Sequence[Request]) -> list[Any]:
        node = self._nodes[number]
        if len(requests) == 1:
            method, parameters = requests[0]
            told: Any = [await node.make_request(RPCEndpoint(method), list(parameters))]
        else:
            told = await node.make_batch_request([(RPCEndpoint(method), list(some)) for method, some in requests])
        if isinstance(told, dict):
            told = [told] * len(requests)
        if not isinstance(told, list) or len(told) != len(requests):
            raise ValueError("it does not speak JSON-RPC")
        return [_read(one) for one in told]

    async def close(self) -> None:
        """Release connections."""
        for node in self._nodes:
            await node.disconnect()
        # The client closes its sockets one turn of the loop later.
        await asyncio.sleep(0)


def _read(answer: Any) -> Any:
    if not isinstance(answer, dict) or ("error" not in answer and "result" not in answer):
        raise ValueError(f"it does not speak JSON-RPC: {json.dumps(answer)[:100]}")
    if answer.get("error") is None:
        return answer["result"]
    error = RpcError(answer["error"])
    if error.code == _LIMIT_EXCEEDED:
        raise OSError(error.message)
    return error
