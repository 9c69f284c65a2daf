"""The till of a gateway whose config sells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quiver.errors import UsageError
from quiver.gateway.till import Till
from quiver.ids import ModelId
from quiver.live.config import GatewayConfig
from quiver.runtime import Runtime


def make_till(config: GatewayConfig, path: Path, runtime: Runtime, models: Mapping[str, ModelId]) -> Till | None:
    """What charges clients; None where nobody pays. `UsageError` says what to correct in the config at `path`."""
    if config.selling is None:
        return None
    selling = config.selling.selling(models, where=str(path))
    accounts = config.http.accounts()
    if not accounts:
        raise UsageError(
            f"{path}: [selling] needs [[http.keys]] that are not free: an account is the name of an API key"
        )
    return Till(runtime, selling, accounts)
