"""What `scan` of a store on disk gives: pairs in key order as of the call, however many, without holding them all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

Pair = tuple[bytes, bytes]
# A scan of fewer rows is one read; a longer one keeps a connection of its own, whose snapshot is the moment of the call.
SCAN_CHUNK_ROWS = 2048


class Rows(Iterator[Pair]):
    """Chunks that `fetch` reads until one is empty; then, or when nobody iterates any more, `close` is called once."""

    def __init__(self, first: Sequence[Pair], fetch: Callable[[], Sequence[Pair]], close: Callable[[], None]) -> None:
        self._chunk = iter(first)
        self._fetch, self._close = fetch, close
        self._is_open = True

    def __next__(self) -> Pair:
        for pair in self._chunk:
            return pair
        if self._is_open:
            self._chunk = iter(self._fetch())
            for pair in self._chunk:
                return pair
            self.close()
        raise StopIteration

    def close(self) -> None:
        """Give the connection back."""
        if self._is_open:
            self._is_open = False
            self._close()

    def __del__(self) -> None:
        self.close()


def successor(prefix: bytes) -> bytes | None:
    """The smallest key after all keys with this prefix; None when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return None if not trimmed else trimmed[:-1] + bytes((trimmed[-1] + 1,))
