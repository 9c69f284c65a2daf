"""Why a store is not opened, where a caller can do something about it."""

from __future__ import annotations

from quiver.errors import UsageError


class StoreInUse(UsageError):
    """Another process holds it: most likely its own node, which runs."""
