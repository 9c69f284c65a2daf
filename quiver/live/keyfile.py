"""The secret seed of a node: 32 bytes in a file that only its owner can read. It never reaches a log or a message."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair

SEED_BYTES = 32
_MODE = 0o600


def create(path: Path) -> KeyPair:
    """A new random seed in a new file; `UsageError` if the file is already there, because a lost key is lost money."""
    seed = os.urandom(SEED_BYTES)
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE)
    except FileExistsError as error:
        raise UsageError(
            f"{path} is already there and is not overwritten: choose another directory, or keep using it"
        ) from error
    with os.fdopen(file, "wb") as opened:
        opened.write(seed)
        opened.flush()
        os.fsync(opened.fileno())
    return KeyPair(seed)


def load(path: Path) -> KeyPair:
    """The keys of the seed in `path`; `UsageError` when others can read it or it is not a seed."""
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            seed = file.read(SEED_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"key file {path} cannot be read ({error.strerror}): make one with `init`, or correct `key`"
        ) from error
    if mode & 0o077:
        raise UsageError(f"key file {path} can be read by others (mode {mode:04o}): run `chmod 600 {path}`")
    if len(seed) != SEED_BYTES:
        raise UsageError(f"key file {path} does not hold {SEED_BYTES} bytes: restore it from its backup")
    return KeyPair(seed)
