"""API keys: who asks, and how often they may.

Only hashes of keys are kept. Without any key the doors are open to this machine alone, unless opened on purpose.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Sequence

import msgspec

from quiver.errors import UsageError
from quiver.gateway.admission import TokenBucket
from quiver.live.http.problem import Problem
from quiver.values.request import Principal

API_KEYS_MAX = 1024
"Each request is compared with every key, in constant time; more keys than this belong in a proxy."


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One client's key, as a hash, and its rate."""

    name: str
    sha256: str
    "Hex SHA-256 of the key's UTF-8 bytes: `printf %s KEY | sha256sum`."
    requests_per_s: float | None = None
    "Sustained rate; None is unlimited."
    burst: int = 10
    "Requests that may come at once after a pause."
    free: bool = False
    "Served without an account, where the gateway sells to others."


class Authenticator:
    """From an HTTP request's headers and address to a `Principal`, or a 401 or 429."""

    def __init__(self, keys: Sequence[ApiKey], *, open_access: bool, now: Callable[[], float]) -> None:
        if len(keys) > API_KEYS_MAX:
            raise UsageError(
                f"{len(keys)} API keys are configured, at most {API_KEYS_MAX} are allowed: put a proxy in front"
            )
        self._keys: list[tuple[bytes, ApiKey, TokenBucket | None]] = []
        self._open_access, self._now = open_access, now
        for key in keys:
            self._keys.append((_hash_of(key), key, _bucket_of(key, now())))

    def principal(self, *, authorization: str, api_key: str, remote: str | None) -> Principal:
        """Who asks, after one token left their bucket. `Problem` 401 or 429."""
        if not self._keys:
            if self._open_access or _is_loopback(remote):
                return Principal(name="anonymous")
            raise Problem(401, "this gateway has no API keys configured, so it serves its own machine only: add a key")
        key, bucket = self._match(_presented(authorization, api_key))
        if bucket is not None and (wait_s := bucket.take(self._now())) > 0.0:
            message = (
                f"API key {key.name!r} is over its {key.requests_per_s:g} requests per second: retry in {wait_s:.2f} s"
            )
            raise Problem(429, message, retry_after_s=wait_s)
        # The key's own burst was applied here: a rate in the principal would be charged again by the gateway's admission.
        return Principal(name=key.name)

    def _match(self, presented: str) -> tuple[ApiKey, TokenBucket | None]:
        if not presented:
            raise Problem(401, "an API key is required: send it as `Authorization: Bearer KEY`")
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
        found = None
        for expected, key, bucket in self._keys:  # never leaves early: time must not tell which key came close
            if hmac.compare_digest(expected, digest):
                found = key, bucket
        if found is None:
            raise Problem(401, "this API key is not known here: check it, or ask the gateway's operator for one")
        return found


def _presented(authorization: str, api_key: str) -> str:
    scheme, _, value = authorization.partition(" ")
    return value.strip() if scheme.lower() == "bearer" else api_key.strip()


def _hash_of(key: ApiKey) -> bytes:
    try:
        digest = bytes.fromhex(key.sha256)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise UsageError(
            f"API key {key.name!r}: sha256 must be 64 hex digits; make them with `printf %s KEY | sha256sum`"
        )
    return digest


def _bucket_of(key: ApiKey, now: float) -> TokenBucket | None:
    if key.requests_per_s is None:
        return None
    if key.requests_per_s <= 0 or key.burst < 1:
        raise UsageError(f"API key {key.name!r}: requests_per_s must be above 0 and burst at least 1")
    return TokenBucket(rate=key.requests_per_s, burst=key.burst, now=now)


def _is_loopback(remote: str | None) -> bool:
    try:
        return ipaddress.ip_address(remote or "").is_loopback
    except ValueError:
        return False
