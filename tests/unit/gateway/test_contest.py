"""Two attempts, and who is taken for the first."""

from __future__ import annotations

import pytest

from quiver.errors import PeerUnreachable, UsageError
from quiver.gateway.contest import decide
from quiver.values.request import TokenChunk
from sim.clock import SimClock
from sim.loop import Environment

CHUNK = TokenChunk(text="a", tokens=1)


class Runner:
    """An attempt that answers, or fails, after some seconds."""

    def __init__(self, clock, seconds, result=CHUNK):
        self.clock, self.seconds, self.result, self.was_stopped = clock, seconds, result, False

    async def next(self):
        try:
            await self.clock.sleep(self.seconds)
        except BaseException:
            self.was_stopped = True
            raise
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def play(first, second=None, *, delay_s=1.0):
    """(who answered, with what, when the second began, who failed before, the time it took)."""
    env = Environment()
    clock = SimClock(env)
    runners = [None if spec is None else Runner(clock, *spec) for spec in (first, second)]
    began_s, failed = [], []

    async def main():
        def begin_second():
            began_s.append(clock.now())
            return runners[1]

        winner, result = await decide(
            clock, runners[0], delay_s=delay_s, begin_second=begin_second,
            on_failed=lambda attempt, error: failed.append(runners.index(attempt)),
        )  # fmt: skip
        return runners.index(winner), result, began_s, failed, clock.now()

    try:
        return *env.run_coroutine(main()), [runner is not None and runner.was_stopped for runner in runners]
    finally:
        env.close()


LOST = PeerUnreachable("lost")


def test_whoever_answers_in_time_runs_alone():
    assert play((0.5,), (0.1,)) == (0, CHUNK, [], [], 0.5, [False, False])


def test_an_error_in_time_is_returned_and_nobody_else_is_asked():
    assert play((0.5, LOST), (0.1,)) == (0, LOST, [], [], 0.5, [False, False])


@pytest.mark.parametrize(("first", "winner", "at_s"), [(2.0, 1, 1.5), (1.2, 0, 1.2)])
def test_the_other_one_is_stopped(first, winner, at_s):
    assert play((first,), (0.5,)) == (winner, CHUNK, [1.0], [], at_s, [winner == 1, winner == 0])


def test_in_one_instant_one_of_them_is_first_and_the_answer_is_not_lost():
    winner, result, *_ = play((1.5,), (0.5,))
    assert winner in (0, 1) and result is CHUNK


def test_an_answer_in_the_very_moment_of_the_delay_is_taken():
    assert play((1.0,), (0.5,)) == (0, CHUNK, [1.0], [], 1.0, [False, True])


@pytest.mark.parametrize(("first", "second", "failed"), [((1.2, LOST), (0.9,), [0]), ((1.9,), (0.2, LOST), [1])])
def test_one_that_fails_leaves_the_other_alone(first, second, failed):
    winner, result, _, seen, at_s, _ = play(first, second)
    assert (winner, result, seen, at_s) == (1 - failed[0], CHUNK, failed, pytest.approx(1.9))


def test_when_both_fail_the_last_error_is_the_result():
    assert play((1.2, LOST), (0.9, LOST)) == (1, LOST, [1.0], [0], 1.9, [False, False])


def test_without_a_second_the_first_is_waited_for():
    assert play((5.0,), None) == (0, CHUNK, [1.0], [], 5.0, [False, False])


def test_a_bug_is_seen():
    with pytest.raises(UsageError):
        play((0.5, UsageError("a bug")))
