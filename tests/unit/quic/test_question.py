"""Deadlines of questions under way: each in its time, with one timer for those that wait equally long."""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import DeadlineExceeded
from quiver.quic.question import Deadlines, Question
from tests.conformance.transport_suite import ECHO, Note
from tests.unit.quic.story import tell


class Late:
    def __init__(self, log, name):
        self.on_late = lambda: log.append(name)


class Loop:
    """Counts timers; time is set by hand."""

    def __init__(self):
        self.now, self.timers = 0.0, []

    def time(self):
        return self.now

    def call_at(self, due_s, function, *arguments):
        self.timers.append((due_s, function, arguments))
        return self.timers[-1]

    def pass_time(self, now):
        while due := sorted((one for one in self.timers if one[0] <= now), key=lambda one: one[0]):
            self.timers.remove(due[0])
            self.now, function, arguments = due[0]
            function(*arguments)
        self.now = now


def test_each_question_is_late_in_its_time_and_one_that_was_answered_never():
    loop, log = Loop(), []
    deadlines = Deadlines(loop)
    first, second, third, short = (Late(log, name) for name in ("first", "second", "third", "short"))
    deadlines.add(first, 5.0)
    loop.pass_time(1.0)
    deadlines.add(second, 5.0)
    deadlines.add(short, 2.0)
    deadlines.add(third, 5.0)
    assert len(loop.timers) == 2
    deadlines.remove(second, 5.0)
    loop.pass_time(4.9)
    assert log == ["short"]
    loop.pass_time(5.9)
    assert log == ["short", "first"]
    loop.pass_time(6.0)
    assert log == ["short", "first", "third"]
    loop.pass_time(60.0)
    assert not loop.timers and not deadlines._rows


def test_a_row_that_was_forgotten_begins_anew():
    loop, log = Loop(), []
    deadlines = Deadlines(loop)
    for _ in range(3):
        question = Late(log, "late")
        deadlines.add(question, 1.0)
        deadlines.remove(question, 1.0)
        deadlines.remove(question, 1.0)
        loop.pass_time(loop.now + 2.0)
        assert not loop.timers
    deadlines.add(Late(log, "late"), 1.0)
    loop.pass_time(loop.now + 1.0)
    assert log == ["late"]


def test_a_thousand_questions_in_turn_arm_one_timer_in_five_seconds():
    loop = Loop()
    deadlines = Deadlines(loop)
    for number in range(1000):
        loop.pass_time(number / 1000)
        question = Question(loop)
        deadlines.add(question, 5.0)
        deadlines.remove(question, 5.0)
    assert len(loop.timers) == 1


@pytest.mark.parametrize("timeout_s", [0.5, 0.0])
def test_an_rpc_nobody_answers_is_late_to_the_moment_and_frees_its_stream(timeout_s):
    async def story(net, a, b):
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        b.crash()
        began = net.env.now
        with pytest.raises(DeadlineExceeded, match="did not answer"):
            await a.rpc(b.peer_id, ECHO, Note(number=2), timeout_s=timeout_s)
        assert net.env.now - began == pytest.approx(timeout_s)
        assert a.quota.streams_open == (0, 0)

    tell(story)


def test_the_time_of_an_rpc_covers_the_dial():
    async def story(net, a, b):
        async def silent(stream):
            await asyncio.Event().wait()

        b.serve(ECHO, silent)
        began = net.env.now
        with pytest.raises(DeadlineExceeded):
            await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=0.5)
        assert net.env.now - began == pytest.approx(0.5)

    tell(story)
