"""Substreams depend on their names and nothing else."""

from __future__ import annotations

import pytest

from sim.rng import Substreams


def test_names_of_other_type_split_or_seed_are_other_streams():
    streams = Substreams(1)
    names = [("a", "b"), ("ab",), (b"a", "b"), (1,), ("1",), (b"1",), ()]
    draws = [streams.stream(*name).random() for name in names] + [Substreams(2).stream("ab").random()]
    assert len(set(draws)) == len(draws)


def test_numpy_streams_repeat_and_uniform_draws_look_uniform():
    streams = Substreams(1)
    assert streams.numpy("x").random(3).tolist() == Substreams(1).numpy("x").random(3).tolist()
    draws = [streams.uniform("request", index) for index in range(4000)]
    assert min(draws) >= 0 and max(draws) < 1
    # Standard error of the mean of 4,000 uniform draws is 0.0046.
    assert sum(draws) / len(draws) == pytest.approx(0.5, abs=0.02)


def test_children_differ_from_each_other_and_from_their_parent():
    streams = Substreams(1)
    assert len({s.uniform("x") for s in (streams, streams.child("a"), streams.child("b"))}) == 3


def test_a_name_whose_text_is_not_stable_is_refused():
    for name in (1.5, True, None, object()):
        with pytest.raises(TypeError, match="stable id"):
            Substreams(1).stream(name)  # type: ignore[arg-type]
