"""What a provider puts on sale, and how an engine is chosen: decided before anything is opened."""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import UsageError
from quiver.live.config import Backend, PriceSection, ProviderConfig, Served
from quiver.live.roles import choose_models, make_backend, policy_spec
from quiver.values.backend import InstalledModel

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


class Engine:
    """Holds two models."""

    def __init__(self, *models):
        self._models = models or (InstalledModel(name="a:latest", model=ONE), InstalledModel(name="b:7b", model=TWO))

    async def models(self):
        return self._models


def provider(*models, **more):
    return ProviderConfig(key="k", store="s", models=models, **more)


def choose(config, engine=None):
    return asyncio.run(choose_models(config, engine or Engine(), "provider.toml"))


def test_without_a_list_everything_the_engine_holds_is_on_sale_at_the_common_price():
    served = choose(provider(price=PriceSection(prompt=7, completion=8)))
    assert [(one.installed.name, one.price.prompt, one.price.completion) for one in served] == [
        ("a:latest", 7, 8),
        ("b:7b", 7, 8),
    ]


def test_a_list_chooses_names_and_prices_and_latest_may_be_left_out():
    (one,) = choose(provider(Served(name="a", digest=ONE.hex(), price=PriceSection(prompt=1))))
    assert one.installed.model == ONE and one.price.prompt == 1


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (Served(name="c"), r"the engine has no model 'c', only a:latest, b:7b"),
        (Served(name="b:7b", digest=ONE.hex()), r"is pinned to 010101010101..., the engine holds 020202020202..."),
    ],
)
def test_a_model_that_is_missing_or_has_other_content_is_refused(served, words):
    with pytest.raises(UsageError, match=words):
        choose(provider(served))


def test_an_openai_engine_needs_digests_and_its_key_file_must_be_there(tmp_path):
    backend = Backend(kind="openai", api_key_file="engine.key")
    with pytest.raises(UsageError, match="list \\[\\[models\\]\\] with name and digest"):
        make_backend(provider(backend=backend), tmp_path / "provider.toml")
    with pytest.raises(UsageError, match="engine.key cannot be read"):
        make_backend(provider(Served(name="m", digest=ONE.hex()), backend=backend), tmp_path / "provider.toml")


def test_a_policy_file_is_looked_for_beside_the_config(tmp_path):
    path = tmp_path / "gateway.toml"
    assert policy_spec("mine.py:Mine", path) == f"{tmp_path / 'mine.py'}:Mine"
    assert policy_spec("power-of-two", path) == "power-of-two"
    assert policy_spec("package.module:Mine", path) == "package.module:Mine"
