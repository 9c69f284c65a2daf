"""The constants of a network and their hash."""

from __future__ import annotations

import msgspec
import pytest

from quiver.params import Params
from quiver.wire.protocols import INFERENCE


def test_every_constant_counts_in_the_hash():
    plain = Params().hash()
    for name, value in msgspec.structs.asdict(Params()).items():
        assert Params(**{name: value + 1}).hash() != plain, name
    assert Params().hash() == plain == Params.default().hash() != Params.minimal().hash()


def test_an_unknown_constant_is_refused_by_name():
    with pytest.raises(msgspec.ValidationError, match="`alhpa`"):
        msgspec.convert({"alhpa": 3}, Params)
    with pytest.raises(msgspec.ValidationError, match=r"Expected `int`, got `str` - at `\$.alpha`"):
        msgspec.convert({"alpha": "3"}, Params)


@pytest.mark.parametrize("params", [Params.default(), Params.minimal()], ids=["default", "minimal"])
def test_the_constants_fit_each_other(params):
    assert params.beta <= params.k and params.alpha <= params.k
    assert params.republish_s < params.lease_s, "a record is renewed before it ends"
    assert params.discovery_refresh_s < params.offer_lease_s
    assert params.body_bytes_max < params.frame_bytes_max <= INFERENCE.frame_bytes_max
    assert params.quote_timeout_s < params.first_token_timeout_s < params.request_timeout_s
    assert params.acknowledge_interval_s < params.quote_timeout_s
    assert params.first_credit <= params.credit_limit_max <= params.unproven_credit_max
    assert params.first_credit <= params.channel_deposit_credits
    assert params.provider_peers_max <= params.candidates_max
