"""The trace of a run: its digest, and on request every event, so that two runs can be compared.

The digest covers each delivered frame (time as IEEE bits, source, destination, kind, CRC-32 of the payload) and each
decision event. It does not depend on which sinks listen.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

Row = tuple[float, str, bytes]
"A recorded event: its time in seconds, its name, the bytes that went into the digest."

_FRAME = struct.Struct("<diiiI")
# Bytes collected before they go through the hash: one update for a few thousand frames.
_FLUSH_BYTES = 1 << 17


class RunTrace:
    """One per world. `emit` is the `Trace` port; `frame` is called by the transport."""

    def __init__(self, *, record: bool = False) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self._buffer = bytearray()
        self._encode = msgspec.msgpack.Encoder().encode
        self._kinds: dict[Any, int] = {}
        self._sinks: list[tuple[Callable[[Any], None], tuple[type, ...]]] = []
        self._sinks_of: dict[type, list[Callable[[Any], None]]] = {}
        self.frames = 0
        self.events = 0
        self.recorded: list[Row] | None = [] if record else None

    def subscribe(self, sink: Callable[[Any], None], *kinds: type) -> None:
        """`sink(event)` sees every decision event, or those of `kinds` alone. A sink only observes."""
        self._sinks.append((sink, kinds))
        self._sinks_of.clear()

    def frame(self, now: float, source: int, destination: int, message: Any, payload: bytes) -> None:
        """A frame was delivered."""
        self.frames += 1
        kinds, buffer = self._kinds, self._buffer
        name = message.__class__
        number = kinds.get(name)
        if number is None:
            number = kinds[name] = len(kinds)
            # Numbers are given out in order of first delivery: the digest must tell whose they are.
            buffer += name.__name__.encode()
        entry = _FRAME.pack(now, source, destination, number, zlib.crc32(payload))
        buffer += entry
        if self.recorded is not None:
            self.recorded.append((now, f"frame {source}->{destination} {name.__name__}", entry))
        if len(buffer) > _FLUSH_BYTES:
            self._flush()

    def emit(self, event: Any) -> None:
        """A role decided something."""
        self.events += 1
        data = self._encode(event)
        self._buffer += data
        if self.recorded is not None:
            self.recorded.append((event.at_s, type(event).__name__, data))
        if len(self._buffer) > _FLUSH_BYTES:
            self._flush()
        kind = event.__class__
        sinks = self._sinks_of.get(kind)
        if sinks is None:
            sinks = self._sinks_of[kind] = [sink for sink, kinds in self._sinks if not kinds or kind in kinds]
        for sink in sinks:
            sink(event)

    def _flush(self) -> None:
        self._hash.update(self._buffer)
        self._buffer.clear()

    def digest(self) -> str:
        """Hex of the hash over everything so far."""
        self._flush()
        return self._hash.hexdigest()


def first_divergence(one: RunTrace, other: RunTrace) -> str | None:
    """Names the first event in which two recorded runs differ, and what differs in it; None when they are equal."""
    left, right = one.recorded, other.recorded
    if left is None or right is None:
        raise ValueError("both runs must be recorded: RunTrace(record=True)")
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return f"event {position}: {_describe_difference(a, b)}"
    if len(left) != len(right):
        longer = left if len(left) > len(right) else right
        at_s, name, _ = longer[min(len(left), len(right))]
        return f"event {min(len(left), len(right))}: {name} at t = {at_s!r} s happened in one run only"
    return None


def _describe_difference(a: Row, b: Row) -> str:
    """Time and name of both rows, or, where those are equal, the fields that are not."""
    if a[:2] != b[:2]:
        return f"{a[1]} at t = {a[0]!r} s against {b[1]} at t = {b[0]!r} s"
    left, right = _read_fields(a), _read_fields(b)
    differences = [
        f"{field} {_show(left.get(field))} against {_show(right.get(field))}"
        for field in dict.fromkeys([*left, *right])
        if left.get(field) != right.get(field)
    ]
    return f"{a[1]} at t = {a[0]!r} s: {', '.join(differences)}"


def _read_fields(row: Row) -> dict[str, Any]:
    """What a row says beyond its time and name."""
    _, name, data = row
    if not name.startswith("frame "):
        return _flatten(msgspec.msgpack.decode(data))
    _, _, _, kind, checksum = _FRAME.unpack(data)
    return {"kind": kind, "payload CRC-32": f"{checksum:08x}"}


def _flatten(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields of inner values get names like event.transaction.amount."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _show(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
