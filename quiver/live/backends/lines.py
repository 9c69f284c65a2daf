"""Whole lines out of an engine's streamed answer. JSON and UTF-8 may be split anywhere by TCP and HTTP chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from quiver.errors import Unavailable

LINE_BYTES_MAX = 4 * 1024 * 1024
"Of one NDJSON line or SSE event: an Ollama line may carry the context of a long conversation."


class LineSplitter:
    """Bytes in, whole lines out, without their newline. What is left at the end was cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Lines completed by `data`; `Unavailable` when one grows beyond its limit."""
        # Only the new bytes are searched, so one long line in many parts costs linear time.
        if b"\n" not in data:
            self._rest += data
            lines = []
        else:
            *lines, rest = bytes(self._rest + data).split(b"\n")
            self._rest = bytearray(rest)
        if len(self._rest) > LINE_BYTES_MAX:
            raise Unavailable(f"the engine sent a line of more than {LINE_BYTES_MAX} bytes: it is not speaking its API")
        return [line.rstrip(b"\r") for line in lines]

    def rest(self) -> bytes:
        """An unfinished last line."""
        return bytes(self._rest)


async def read_lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Lines of a body that arrives in `chunks`; a last line without newline counts."""
    splitter = LineSplitter()
    async for chunk in chunks:
        for line in splitter.feed(chunk):
            yield line
    if rest := splitter.rest():
        yield rest
