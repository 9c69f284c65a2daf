"""A node's log: one JSON object a line, for the trace events of the protocol and for everything else.

Rules of this file: no prompt, no answer, no key ever gets here: trace events do not carry them, and keys have no text form.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import msgspec

from quiver import trace
from quiver.errors import MalformedMessage
from quiver.identity.peer_id import peer_id_text, public_key_of
from quiver.ids import PeerId

_log = logging.getLogger("quiver.trace")
# Events of every few seconds on a healthy node: only for those who debug it.
_QUIET = (trace.LookupFinished,)
# Events an operator has to act on: they stand out at any level but error.
_LOUD = (trace.SettlementWarned,)
_FIELDS = "quiver_fields"


def plain(value: Any) -> Any:
    """JSON form: peer ids as base58, other bytes as hex, structs as objects."""
    if isinstance(value, bytes):
        try:
            public_key_of(PeerId(value))
        except MalformedMessage:
            return value.hex()
        return peer_id_text(PeerId(value))
    if isinstance(value, msgspec.Struct):
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        tag = value.__struct_config__.tag
        return {"type": tag, **fields} if tag else fields
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


class LiveTrace:
    """`Trace` into the log."""

    def emit(self, event: msgspec.Struct) -> None:
        """One line an event."""
        level = logging.INFO
        if isinstance(event, _QUIET + _LOUD):
            level = logging.DEBUG if isinstance(event, _QUIET) else logging.WARNING
        if _log.isEnabledFor(level):
            _log.log(level, "%s", type(event).__name__, extra={_FIELDS: {"event": plain(event)}})


def note(logger: logging.Logger, level: int, message: str, **fields: Any) -> None:
    """A line of the node itself, with fields."""
    logger.log(level, "%s", message, extra={_FIELDS: plain_fields(fields)})


def plain_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """`plain` over a mapping."""
    return {name: plain(value) for name, value in fields.items()}


class JsonLines(logging.Formatter):
    """`{"at_ms": ..., "level": ..., "logger": ..., "message": ..., ...fields}`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "at_ms": int(record.created * 1000), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(), **getattr(record, _FIELDS, {}),
        }  # fmt: skip
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


def set_up(level: str, path: Path | None) -> None:
    """Send all logging of the process to `path`, or standard error."""
    handler = logging.FileHandler(path) if path is not None else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # aioquic tells each handshake; asyncio each selector.
    for chatty in ("quic", "asyncio", "aiohttp"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
