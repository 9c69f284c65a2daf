"""Files and folders that only their owner can read. A store holds signatures that are worth money, and hashes of what was asked.

Rules of this file: what is there already keeps the mode its operator gave it.
"""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path

FILE_MODE, FOLDER_MODE = 0o600, 0o700


def can_others_read(path: Path) -> bool:
    """Whether a file is there, and anybody but its owner may open it: an older version made stores by the umask."""
    return path.exists() and bool(path.stat().st_mode & 0o077)


def make_folder(path: Path) -> None:
    """`path`, and what is missing above it."""
    missing = list(takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    for folder in reversed(missing):
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def make_database(path: Path) -> None:
    """An empty file for SQLite, which gives `-wal` and `-shm` the mode of the file they belong to, and would make it by the umask."""
    try:
        # Where a link leads, since a link that leads nowhere yet counts as there.
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
    except FileExistsError:
        return
