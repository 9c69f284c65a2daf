"""A libp2p node that others wrote, as its tests drive it: commands and answers are JSON lines over its pipes.

Both programs, `js/peer.mjs` and `py/peer.py`, take the commands that `peer.mjs` describes.
"""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections import deque
from itertools import count
from typing import Any

# A peer ends a command by itself after 15 s; what comes later will not come.
COMMAND_S = 20.0
# Reading the packages of a cold disk takes most of it.
START_S = 60.0
STOP_S = 5.0
STDERR_LINES_MAX = 50
# An answer is one line: 1 MiB is a routing table of thousands.
LINE_BYTES_MAX = 1 << 20


class CommandFailed(Exception):
    """The peer says what went wrong. `name` is the name its library gives the error."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class ForeignPeer:
    """One process. `peer` is its peer id as text, `addresses` are its multiaddrs; `kind` is js or py."""

    def __init__(self, kind: str, process: Process) -> None:
        self.kind = kind
        self._process = process
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES_MAX)
        self._tasks = [asyncio.create_task(self._read_answers()), asyncio.create_task(self._read_stderr())]
        self.ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, kind: str, command: list[str], **options: Any) -> ForeignPeer:
        """Start the program and wait until it listens."""
        process = await asyncio.create_subprocess_exec(
            *command, json.dumps(options), stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=LINE_BYTES_MAX
        )
        peer = cls(kind, process)
        try:
            await peer._until(peer.ready, START_S, "to start")
        except BaseException:
            await peer.stop()
            raise
        return peer

    @property
    def peer(self) -> str:
        return str(self.ready.result()["peer"])

    @property
    def addresses(self) -> list[str]:
        return list(self.ready.result()["addresses"])

    def address(self, start: str, has: str = "/") -> str:
        """Its address that begins with `start` and has `has` in it."""
        return next(one for one in self.addresses if one.startswith(start) and has in one)

    async def call(self, command: str, **arguments: Any) -> Any:
        """The result of a command; `CommandFailed` if the peer answers with an error."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "command": command, **arguments}).encode() + b"\n")
        try:
            told = await self._until(answer, COMMAND_S, f"to answer {command} {arguments}")
        finally:
            del self._waiting[number]
        if "error" in told:
            raise CommandFailed(told["error"], told["message"])
        return told["result"]

    async def stop(self) -> None:
        """End of its input is the sign to leave; one that stays is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await asyncio.gather(*self._tasks)

    async def _until(self, answer: asyncio.Future[Any], seconds: float, what: str) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except (TimeoutError, EOFError) as error:
            raise AssertionError(
                f"the peer took too long {what}, or left; it said:\n" + "\n".join(self._stderr)
            ) from error

    async def _read_answers(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            waiting = self.ready if "ready" in told else self._waiting.get(told["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(told.get("ready", told))
        for left in [self.ready, *self._waiting.values()]:
            if not left.done():
                left.set_exception(EOFError())

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self._stderr.append(line.decode(errors="replace").rstrip())
