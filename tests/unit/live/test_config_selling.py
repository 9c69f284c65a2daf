"""[selling] and [top_up] of a gateway's config, as they are read and as the doctor sees them."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from quiver.errors import UsageError
from quiver.gateway.selling import Selling, Tariff
from quiver.gateway.topup import TopUpPolicy
from quiver.live import config_file, doctor, init
from quiver.live.config import GatewayConfig
from quiver.live.finding import Status
from quiver.live.till import make_selling

LISTED, OTHER = "11" * 32, "22" * 32
KEY = f'\n[[http.keys]]\nname = "alice"\nsha256 = "{hashlib.sha256(b"k").hexdigest()}"\n'
PRICE = "[selling.prices.m]\nprompt = 5\ncompletion = 7\n"
MARGIN = "[selling]\nmargin = 0.1\n[selling.ceiling]\nprompt = 100\ncompletion = 200\nminimum_credits = 0\n"


def write(tmp_path, text, models=None):
    init.init_network(tmp_path, name="net", host="127.0.0.1", bootstrap_port=1, aggregator_port=2)
    init.init_role("gateway", tmp_path, parts=init.gateway_parts(models or {"m": LISTED, "n": OTHER}))
    path = tmp_path / "gateway.toml"
    path.write_text(path.read_text() + text)
    return path


def selling(path):
    return make_selling(config_file.load(path, GatewayConfig), path)


def test_without_a_section_nobody_pays(tmp_path):
    assert selling(write(tmp_path, KEY)) is None


def test_prices_and_a_margin_for_the_others(tmp_path):
    assert selling(write(tmp_path, KEY + MARGIN + PRICE)) == Selling(
        tariffs={bytes.fromhex(LISTED): Tariff(prompt=5, completion=7)}, margin_ppm=100_000,
        ceiling=Tariff(prompt=100, completion=200, minimum_credits=0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (KEY + PRICE, "no price for 'n'"),
        (KEY + PRICE.replace(".m", ".x"), "names 'x', which is not in"),
        (KEY + "[selling]\nmargin = 0.1\n", "margin needs"),
        (KEY + "[selling]\nmargin = -0.1\n", "margin"),
        (KEY + PRICE.replace("7", "-7"), "completion"),
        (KEY + PRICE + "typo = 1\n", "typo"),
        (MARGIN, "needs [[http.keys]] that are not free"),
        (KEY + "free = true\n" + MARGIN, "needs [[http.keys]] that are not free"),
    ],
)
def test_a_section_nobody_could_sell_by_is_refused_by_name(tmp_path, text, words):
    with pytest.raises(UsageError) as caught:
        selling(write(tmp_path, text))
    assert words in str(caught.value) and "gateway.toml" in str(caught.value)


def test_the_doctor_shows_prices_and_finds_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "PEER_TIMEOUT_S", 0.05)

    def examine(path):
        return {one.check: one for one in asyncio.run(doctor.examine(config_file.load(path, GatewayConfig), path))}

    path = write(tmp_path, KEY + MARGIN.replace("0.1\n", "0.1\nadmin_port = 0\n") + PRICE)
    assert "1 models by the table, a margin of 10.00% on others; accounts: alice" in examine(path)["selling"].detail
    assert "admin port" not in examine(path)
    path.write_text(path.read_text().replace("[selling.ceiling]", "[selling.prices.n]").replace("margin = 0.1", ""))
    assert "no margin" in examine(path)["selling"].detail
    path.write_text(path.read_text().replace("[selling.prices.n]", "[selling.prices.x]"))
    assert examine(path)["selling"].status is Status.FAIL


def test_top_ups_are_as_written(tmp_path):
    path = write(tmp_path, "\n[top_up]\nlow_share = 0.25\namount = 7\ndaily_max_credits = 50\nbalance_floor = 3\n")
    assert config_file.load(path, GatewayConfig).top_up.policy() == TopUpPolicy(
        low_share=0.25, amount=7, daily_max_credits=50, balance_floor=3
    )
    path.write_text(path.read_text().replace("0.25", "1.5"))
    with pytest.raises(UsageError, match="low_share"):
        config_file.load(path, GatewayConfig)
