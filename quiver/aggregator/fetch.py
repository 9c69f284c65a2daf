"""Talking to another aggregator: one question at a time, and content that is what its name says, or is not taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from quiver.aggregator.published import name_of
from quiver.errors import MalformedMessage, PeerError, Unavailable
from quiver.ids import PeerId
from quiver.ports import Stream
from quiver.runtime import Runtime
from quiver.values.frames import AskContent, ContentAnswer
from quiver.wire.protocols import RECEIPTS

T = TypeVar("T", bound=msgspec.Struct)


class Conversation:
    """One stream; every answer has `rpc_timeout_s`."""

    def __init__(self, runtime: Runtime, stream: Stream) -> None:
        self._runtime = runtime
        self._stream = stream
        self.peer_id = stream.peer_id

    async def ask(self, question: msgspec.Struct, kind: type[T]) -> T:
        """The answer of the wanted kind; `PeerError` for another, `Unavailable` when the peer went away."""
        async with self._runtime.clock.deadline(self._runtime.params.rpc_timeout_s):
            await self._stream.send(question)
            answer = await self._stream.receive()
        if answer is None:
            raise Unavailable("the other aggregator ended the stream")
        if not isinstance(answer, kind):
            raise PeerError(f"{type(answer).__name__} in place of {kind.__name__}", peer_id=self.peer_id)
        return answer

    async def fetch(self, name: bytes) -> bytes:
        """The bytes with this SHA-256. `Unavailable` when the peer has none."""
        answer = await self.ask(AskContent(name=name), ContentAnswer)
        if answer.data is None:
            raise Unavailable(f"the other aggregator does not hold {name.hex()}")
        if name_of(answer.data) != name:
            raise MalformedMessage(f"content that is not {name.hex()}", peer_id=self.peer_id)
        return answer.data


@asynccontextmanager
async def conversation(runtime: Runtime, peer: PeerId) -> AsyncIterator[Conversation]:
    """With `peer`; its stream is reset when the block fails."""
    stream = await runtime.transport.open(peer, RECEIPTS, timeout_s=runtime.params.dial_timeout_s)
    try:
        yield Conversation(runtime, stream)
    except BaseException:
        stream.reset(0)
        raise
    stream.finish()
