"""What a check of `doctor` found, and what to do about it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Status(StrEnum):
    """`fail` stops the node from working, `warn` will one day."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    check: str
    status: Status
    detail: str
    fix: str = ""


def ok(check: str, detail: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, status=Status.OK, detail=detail)


def fail(check: str, error: BaseException | str, fix: str = "") -> Finding:
    """Our errors say what to do themselves: what follows the first colon is the fix."""
    what, colon, todo = str(error).partition(": ") if not fix else (str(error), "", fix)
    return Finding(check=check, status=Status.FAIL, detail=what, fix=todo)
