"""The till of a gateway whose config sells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from quiver.errors import UsageError
from quiver.gateway.prepay import Prepayments
from quiver.gateway.selling import Selling
from quiver.gateway.till import Till
from quiver.ids import ModelId
from quiver.live.config import GatewayConfig, parse_digest
from quiver.live.http.credit import CreditDoor
from quiver.live.http.door import Door
from quiver.live.teller import Teller
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


def make_prepay(config: GatewayConfig, till: Till | None) -> Prepayments | None:
    """What takes clients' channels; None where they are not taken."""
    if till is None or config.selling is None or not config.selling.prepay_min_credits:
        return None
    return Prepayments(till.runtime, till.budget, credits_min=config.selling.prepay_min_credits)


def make_teller(till: Till) -> Teller:
    """Over the till's accounts."""
    return Teller(till.budget, till.accounts, till.runtime.store, till.runtime.clock)


def credit_doors(till: Till | None, prepay: Prepayments | None) -> list[Callable[[Door], CreditDoor]]:
    """Where clients see and fill their accounts."""
    if till is None:
        return []
    teller, runtime = make_teller(till), till.runtime
    return [lambda door: CreditDoor(door, runtime, teller, prepay)]
