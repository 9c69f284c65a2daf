"""JSON-RPC to the nodes of one chain: the first that answers is used, the next takes over when it dies.

Rules of this file: every node is asked which chain it serves before it is believed, and again after it failed. Whatever a node says,
it costs a bounded time and memory, and ends as an answer or as a failure of that node. An address may hold an API key, so messages
show its host alone, and no library logs it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector
from eth_abi.exceptions import DecodingError

from quiver.errors import Unavailable, UsageError
from quiver.live.log import note

REQUEST_TIMEOUT_S = 10.0
# Shorter than any server's own: a request on a connection that is just being closed would count as a failure of the node.
KEEP_ALIVE_S = 4.0
# Of one answer; 50 transactions with 64 claims each are 3 MB.
ANSWER_BYTES_MAX = 16 * 1024 * 1024
MESSAGE_CHARACTERS_MAX = 200
# Nodes refuse larger batches; public ones often at 100.
BATCH_MAX = 50
RETRY_AFTER_S = 2.0
# Python's own default: deep enough for any answer on top of any call.
RECURSION_MAX = 1000
# "limit exceeded" (EIP-1474): another node may have some left.
_LIMIT_EXCEEDED = -32005

Request = tuple[str, Sequence[object]]
_QUANTITY = re.compile("0x[0-9a-fA-F]{1,64}")

_log = logging.getLogger("quiver.chain")


class RpcError(Unavailable):
    """The node answered, and refused. `data` is what a revert says, if it is one."""

    def __init__(self, error: Any) -> None:
        told = error if isinstance(error, dict) else {"message": error}
        code = told.get("code")
        self.code = code if isinstance(code, int) else 0
        self.message = _printable(str(told.get("message", "")))
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


def _printable(text: str) -> str:
    """What a stranger says ends in logs and on terminals."""
    return "".join(one if one.isprintable() else " " for one in text[:MESSAGE_CHARACTERS_MAX])


def quantity(told: Any) -> int:
    """A number as nodes write it, of a word at most; ValueError for anything else."""
    if not isinstance(told, str) or _QUANTITY.fullmatch(told) is None:
        raise _Nonsense("it gives something else for a number")
    return int(told, 16)


class _WrongChain(Exception):
    """A node of another chain."""


class _Nonsense(ValueError):
    """Not what JSON-RPC says an answer is."""


class Rpc:
    """`urls` in the order of preference. One event loop."""

    def __init__(self, urls: Sequence[str], chain_id: int) -> None:
        if not urls:
            raise UsageError('[chain] rpc names no node: give the URL of one, as in rpc = ["http://127.0.0.1:8545"]')
        self.chain_id = chain_id
        self._urls = list(urls)
        self._hosts = [_host_of(url, number) for number, url in enumerate(urls, 1)]
        self._session: ClientSession | None = None
        self._first = 0
        self._checked: set[int] = set()

    @classmethod
    async def discover(cls, url: str) -> Rpc:
        """To whatever chain this node serves."""
        rpc = cls([url], 0)
        try:
            rpc.chain_id = await rpc._chain_of(0)
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            await rpc.close()
            raise Unavailable(
                f"no node answers at {rpc._hosts[0]} ({_say(error)}): start one, or correct the URL"
            ) from error
        return rpc

    @property
    def count(self) -> int:
        """Of nodes."""
        return len(self._urls)

    @property
    def host(self) -> str:
        """Of the node in use."""
        return self._hosts[self._first]

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

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around what takes answers apart: one of another form is the node's fault, and the next node is asked from then on."""
        try:
            yield
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError, DecodingError) as error:
            host = self.host
            # It may be a bug of ours all the same.
            _log.warning("an answer of %s cannot be read", host, exc_info=error)
            self.leave(self._first)
            raise Unavailable(
                f"{host} gives answers that cannot be read ({type(error).__name__}): name another node in [chain] rpc",
                retry_after_s=RETRY_AFTER_S,
            ) from error

    @property
    def in_use(self) -> int:
        """Which node is asked first."""
        return self._first

    def leave(self, number: int) -> None:
        """Ask another node first, unless that is so already, and this one only after it has told its chain again."""
        self._checked.discard(number)
        if number == self._first:
            self._first = (number + 1) % len(self._urls)

    def forget_chain(self) -> None:
        """Ask the node in use for its chain before its next answer: its address may lead to another one now."""
        self._checked.discard(self._first)

    async def ask_another(self, method: str, *parameters: object) -> Any | None:
        """The result of a node that is not the one in use; None if there is none that answers."""
        try:
            (answer,) = await self._ask([(method, parameters)], skip=1)
        except (Unavailable, UsageError):
            return None
        return None if isinstance(answer, RpcError) else answer

    async def _ask(self, requests: Sequence[Request], *, skip: int = 0) -> list[Any]:
        """From the first node that answers, after `skip` of them; without a skip it is the first from then on."""
        failures, strangers = [], 0
        for step in range(skip, len(self._urls)):
            number = (self._first + step) % len(self._urls)
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
                failures.append(f"{self._hosts[number]}: {_say(error)}")
            else:
                if not skip:
                    self._move_to(number, failures)
                return answers
        if strangers == len(self._urls):
            raise UsageError(f"{'; '.join(failures)}: correct [chain] id or rpc")
        raise Unavailable(
            f"no node of chain {self.chain_id} answers ({'; '.join(failures)}): start one, or correct [chain] rpc",
            retry_after_s=RETRY_AFTER_S,
        )

    def _move_to(self, number: int, failures: list[str]) -> None:
        if failures:
            note(_log, logging.WARNING, "another RPC node takes over", node=self._hosts[number], failed=failures)
        self._first = number

    async def _check(self, number: int) -> None:
        found = await self._chain_of(number)
        if found != self.chain_id:
            raise _WrongChain(f"serves chain {found}, not {self.chain_id}")
        self._checked.add(number)

    async def _chain_of(self, number: int) -> int:
        (found,) = await self._post(number, [("eth_chainId", ())])
        if isinstance(found, RpcError):
            raise _Nonsense(f"it does not tell its chain: {found.message}")
        return quantity(found)

    async def _post(self, number: int, requests: Sequence[Request]) -> list[Any]:
        asked = [
            {"jsonrpc": "2.0", "id": place, "method": method, "params": list(parameters)}
            for place, (method, parameters) in enumerate(requests)
        ]
        data = await self._exchange(number, msgspec.json.encode(asked if len(asked) > 1 else asked[0]))
        if data is None:
            return [RpcError(f"its answer has more than {ANSWER_BYTES_MAX} bytes")] * len(asked)
        try:
            told = _decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise _Nonsense("it does not speak JSON-RPC") from error
        if isinstance(told, dict) and told.get("error") is not None:
            # A batch may be refused as a whole.
            return [_read(told)] * len(asked)
        answers = {_id(one): one for one in (told if len(asked) > 1 and isinstance(told, list) else [told])}
        if list(range(len(asked))) != sorted(answers):
            raise _Nonsense("it does not speak JSON-RPC: other answers than were asked for")
        return [_read(answers[place]) for place in range(len(asked))]

    async def _exchange(self, number: int, body: bytes) -> bytes | None:
        """The answer's bytes; None if there are too many."""
        if self._session is None:
            self._session = ClientSession(
                connector=TCPConnector(keepalive_timeout=KEEP_ALIVE_S), timeout=ClientTimeout(total=REQUEST_TIMEOUT_S)
            )
        # Whoever sends us elsewhere may mean a machine that only we can reach.
        async with self._session.post(
            self._urls[number], data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise _Nonsense(f"HTTP {response.status}")
            return await _read_all(response)

    async def close(self) -> None:
        """Release connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
            # The client closes its sockets one turn of the loop later.
            await asyncio.sleep(0)


def _host_of(text: str, number: int) -> str:
    """All of an address that is ever shown."""
    try:
        url = urlsplit(text)
        port = url.port or {"http": 80, "https": 443}[url.scheme]
    except (ValueError, KeyError):
        port = 0
    if not port or not url.hostname:
        raise UsageError(f"URL {number} of [chain] rpc is none of an RPC node: write http://HOST:PORT or https://...")
    return f"{url.hostname}:{port}"


async def _read_all(response: ClientResponse) -> bytes | None:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            response.close()
            return None
        parts.append(part)
    return b"".join(parts)


def _say(error: Exception) -> str:
    """Libraries put the whole URL into some of their messages, so only ours and the system's are shown."""
    if isinstance(error, TimeoutError):
        return f"no answer in {REQUEST_TIMEOUT_S:g} s"
    return _printable(str(error)) if isinstance(error, OSError | _Nonsense) else type(error).__name__


def _id(answer: Any) -> int:
    number = answer.get("id") if isinstance(answer, dict) else None
    return number if type(number) is int else -1


def _decode(data: bytes) -> Any:
    """JSON; `RecursionError` for what is nested absurdly, whatever other libraries have set the interpreter's limit to.

    Some raise it to 100,000, where 100 kB of "[" overflow the C stack and end the process.
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(min(limit, RECURSION_MAX))
    try:
        return msgspec.json.decode(data)
    finally:
        sys.setrecursionlimit(limit)


def _read(answer: dict[str, Any]) -> Any:
    if answer.get("error") is not None:
        error = RpcError(answer["error"])
        if error.code == _LIMIT_EXCEEDED:
            raise _Nonsense(error.message)
        return error
    if "result" not in answer:
        raise _Nonsense("it does not speak JSON-RPC: no result")
    return answer["result"]
