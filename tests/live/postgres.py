"""A PostgreSQL server for tests; skipped, with the reason, where none is installed (`make postgres` does), under CI=true they fail."""

from __future__ import annotations

import os

import pytest

from quiver.live.stores.postgres_server import PostgresServer, find_programs


def running_server() -> PostgresServer:
    """A server of the test's own, for a `with` statement."""
    if find_programs() is None:
        message = "no PostgreSQL server is installed: run `make postgres`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return PostgresServer()
