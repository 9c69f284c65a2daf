"""The file a gateway imports evidence from: read at the start, and again whenever it changes.

Nothing in it is believed here. A file that is not there is one without lines, so an operator may put it there later.
"""

from __future__ import annotations

import logging
from pathlib import Path

from quiver.gateway.suspicion import Suspicion
from quiver.live.log import note
from quiver.ports import Clock

_log = logging.getLogger("quiver.node")

# An aggregator's evidence about a thousand providers is about 4 MB.
FILE_BYTES_MAX = 8 << 20
LINES_MAX = 10_000
POLL_S = 2.0

_State = tuple[int, int, int] | None


async def follow_evidence(path: Path, suspicion: Suspicion, clock: Clock) -> None:
    """Import the lines of `path`, for ever."""
    before: _State = None
    is_first = True
    while True:
        state = _look(path)
        if is_first or state != before:
            before, is_first = state, False
            lines = _read(path)
            counted = await suspicion.import_lines(lines)
            note(_log, logging.INFO, "evidence read", path=str(path), lines=len(lines), counted=counted)
        await clock.sleep(POLL_S)


def _look(path: Path) -> _State:
    """What differs once the file was written or replaced; None while it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> list[bytes]:
    """Its lines; none, and a warning, for a file that can't be read or is larger than any aggregator's."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        note(_log, logging.WARNING, f"evidence {path} cannot be read ({error.strerror}): correct its path or its mode")
        return []
    lines = data.splitlines()
    if len(data) > FILE_BYTES_MAX or len(lines) > LINES_MAX:
        note(
            _log,
            logging.WARNING,
            f"evidence {path} has more than {FILE_BYTES_MAX} bytes or {LINES_MAX} lines and is not used: keep the newest",
        )
        return []
    return lines
