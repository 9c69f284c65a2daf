"""How a PostgreSQL server is named in configs, and what of it may be said aloud: never the password."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from quiver.errors import UsageError
from quiver.ids import PeerId

_SECRETS = ("password", "sslpassword")
# A node that cannot reach its server is told, not left waiting.
CONNECT_TIMEOUT_S = 10
# A server whose machine is gone is noticed this soon by both sides, so that a lock of a dead client does not stay.
_KEEPALIVE_S, _KEEPALIVE_COUNT = 5, 3
_OPTIONS = (
    f"-c tcp_keepalives_idle={_KEEPALIVE_S} -c tcp_keepalives_interval={_KEEPALIVE_S} "
    f"-c tcp_keepalives_count={_KEEPALIVE_COUNT}"
)


class Server:
    """A server's URL, checked. `name` is it without secrets; `str` gives the name, so that no log line shows more."""

    def __init__(self, url: str) -> None:
        parts = _parse(url)
        self._url, self._options = url, f"{parts.get('options') or ''} {_OPTIONS}"
        self._secrets = [str(parts[key]) for key in _SECRETS if parts.get(key)]
        user = f"{parts['user']}@" if parts.get("user") else ""
        port = f":{parts['port']}" if parts.get("port") else ""
        self.name = f"postgresql://{user}{parts.get('host') or 'localhost'}{port}/{parts.get('dbname') or ''}"

    def __str__(self) -> str:
        return self.name

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection that commits each statement; raises psycopg's errors (see `clean`)."""
        return psycopg.connect(
            self._url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name="quiver", keepalives_idle=_KEEPALIVE_S,
            keepalives_interval=_KEEPALIVE_S, keepalives_count=_KEEPALIVE_COUNT, tcp_user_timeout=_KEEPALIVE_S * (_KEEPALIVE_COUNT + 1) * 1000,
            options=self._options,
        )  # fmt: skip

    def clean(self, error: BaseException) -> str:
        """What went wrong in one line without secrets."""
        text = " ".join(str(error).split()) or type(error).__name__
        for secret in self._secrets:
            for shape in (secret, quote(secret, safe="")):
                text = text.replace(shape, "***")
        return text


def schema_of(peer_id: PeerId) -> str:
    """Nodes may share a database: each has a schema of its own, named by its peer id."""
    return f"quiver_{hashlib.sha256(peer_id).hexdigest()[:16]}"


def _parse(url: str) -> dict[str, Any]:
    """Parts of a URL; `UsageError` without a word of it, because libpq's message quotes the password."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        parts = {"host": "@"}
    # A / or @ in a password that nobody escaped makes another host, port or database of its rest.
    ports = str(parts.get("port") or 0).split(",")
    if "@" in f"{parts.get('host')}{parts.get('dbname')}" or not all(port.isdecimal() for port in ports):
        raise UsageError(
            "the PostgreSQL URL cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, in the password "
            "%40 for @, %2F for / and %23 for #"
        )
    return parts
