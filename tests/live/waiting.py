"""Waiting for a state, never for a time."""

from __future__ import annotations

import time


def until(find, what, timeout_s=20.0):
    """The first true result of `find`."""
    deadline = time.monotonic() + timeout_s
    while not (found := find()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.05)
    return found
