"""The version of what a store holds, the same number for every kind of store.

Raise it with any change of the layout, or of a row, that older code would misread: it then refuses the store and says so, while
this code still opens what older code wrote. A field that is added to a row with a default is no such change.
"""

from __future__ import annotations

from quiver.errors import UsageError

# 0: SQLite files written before versions were kept; their rows are those of 1.
STORE_VERSION = 1


def check_version(found: int, name: str) -> None:
    """`UsageError` for a store that newer code wrote."""
    if found > STORE_VERSION:
        raise UsageError(
            f"the store {name} was written by a newer QUIVer (store version {found}, this one reads up to {STORE_VERSION}): "
            "start the newer version again, or restore a backup of before the upgrade"
        )
