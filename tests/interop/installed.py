"""Which peers that others wrote are installed here, and the command that starts each (`make interop` installs them).

`python -m tests.interop.installed` prints the interpreter that py-libp2p is installed for, or nothing.
"""

from __future__ import annotations

import os
import sys

from tests.determinism.interpreters import ROOT, find_others

JS = ROOT / "tests/interop/js"
PY = ROOT / "tests/interop/py"
NODE = JS / "node_modules/.bin/node"
PYTHON = ROOT / ".venv-libp2p/bin/python"
# py-libp2p was tried from this Python on.
PYTHON_MIN = (3, 12)
# make touches it when everything is in its place.
STAMP = ".setup-stamp"


class NotInstalled(Exception):
    """Says why, and what to do. `is_impossible`: nothing the Makefile does could change it."""

    def __init__(self, message: str, *, is_impossible: bool = False) -> None:
        super().__init__(message)
        self.is_impossible = is_impossible


def find_python() -> str | None:
    """An interpreter for py-libp2p: ours, or another CPython on PATH."""
    if sys.version_info >= PYTHON_MIN:
        return sys.executable
    news = (one.executable for one in find_others() if tuple(map(int, one.version.split("."))) >= PYTHON_MIN)
    return next(news, None)


def command(kind: str) -> list[str]:
    """How the peer `js` or `py` is started; `NotInstalled` if it can't be."""
    if kind == "js":
        if not (JS / "node_modules" / STAMP).exists():
            raise NotInstalled("js-libp2p is not installed: run `make interop`, which needs npm")
        node = str(NODE) if NODE.exists() else "node"
        return [node, str(JS / "peer.mjs")]
    if find_python() is None:
        raise NotInstalled("no CPython from 3.12 on is on PATH, which py-libp2p is tried with", is_impossible=True)
    if not (PYTHON.parents[1] / STAMP).exists():
        raise NotInstalled("py-libp2p is not installed: run `make interop`")
    return [str(PYTHON), str(PY / "peer.py")]


def is_required(missing: NotInstalled) -> bool:
    """In continuous integration whatever can be installed must be."""
    return os.environ.get("CI") == "true" and not missing.is_impossible


if __name__ == "__main__":
    sys.stdout.write(find_python() or "")
