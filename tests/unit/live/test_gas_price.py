"""Gas follows the chain, and only where the chain has any and the policy asks."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from quiver.errors import Unavailable
from quiver.live import gas_price
from quiver.live.chain.fees import Market
from quiver.live.config import ClaimsSection, ProviderConfig
from quiver.live.config_network import Chain


class Clock:
    """Ends the story after `rounds`."""

    def __init__(self, rounds):
        self.rounds = rounds

    async def sleep(self, seconds):
        assert seconds == gas_price.POLL_S
        self.rounds -= 1
        if not self.rounds:
            raise asyncio.CancelledError


def follow(monkeypatch, markets, *, kind="rpc", **claims):
    answers, seen = list(markets), []

    async def read_market(rpc):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    class Recorded(SimpleNamespace):
        def __setattr__(self, name, value):
            seen.append(value)

    monkeypatch.setattr("quiver.live.chain.dry_run.read_market", read_market)
    settler = Recorded(gas_price_wei=0)
    seen.clear()
    config = ProviderConfig(key="k", store="s", claims=ClaimsSection(**claims))
    network = SimpleNamespace(chain=Chain(kind=kind, path="x", rpc=("http://127.0.0.1:1",)))

    async def main():
        await gas_price.follow_gas_price(config, network, settler, Clock(len(markets)))

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        pass
    return seen


@pytest.mark.parametrize("claims", [{"wei_per_credit": 1000}, {"gas_price_gwei_max": 2.0}])
def test_the_settler_hears_base_fee_and_tip_and_keeps_the_last_while_the_node_is_away(monkeypatch, claims):
    markets = [Market(base_wei=10, priority_wei=2), Unavailable("away"), Market(base_wei=20, priority_wei=2)]
    assert follow(monkeypatch, markets, **claims) == [12, 22]


@pytest.mark.parametrize(("kind", "claims"), [("local", {"wei_per_credit": 1000}), ("rpc", {})])
def test_nobody_is_asked_where_gas_does_not_count(monkeypatch, kind, claims):
    assert follow(monkeypatch, [], kind=kind, **claims) == []
