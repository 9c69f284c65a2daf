"""The till of a gateway whose config sells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quiver.errors import UsageError
from quiver.gateway.selling import Selling
from quiver.gateway.till import Till
from quiver.ids import ModelId
from quiver.live.config import GatewayConfig, parse_digest
from quiver.runtime import Runtime


def make_selling(config: GatewayConfig, path: Path) -> Selling | None:
    """How it sells; None where nobody pays. `UsageError` says what to correct in the config at `path`."""
    if config.selling is None:
        return None
    if not config.http.accounts():
        raise UsageError(
            f"{path}: [selling] needs [[http.keys]] that are not free: an account is the name of an API key"
        )
    models: Mapping[str, ModelId] = {
        name: parse_digest(digest, where=str(path)) for name, digest in config.models.items()
    }
    return config.selling.selling(models, where=str(path))


def make_till(config: GatewayConfig, path: Path, runtime: Runtime) -> Till | None:
    """What charges clients; None where nobody pays."""
    selling = make_selling(config, path)
    return None if selling is None else Till(runtime, selling, config.http.accounts())
