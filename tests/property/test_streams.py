"""A stream against two lists, on the simulated transport and on real QUIC: whole frames, in order, to the end or to a reset."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.errors import DeadlineExceeded, StreamReset, UsageError
from quiver.params import Params
from quiver.quic.limits import Limits
from tests.conformance.test_transport_packets import PacketNet
from tests.conformance.test_transport_sim import SimNet
from tests.conformance.transport_suite import ECHO, Note
from tests.examples import examples

WINDOW_BYTES = 20_000
SIZES = st.sampled_from([0, 1, 300, WINDOW_BYTES // 2, WINDOW_BYTES, 3 * WINDOW_BYTES])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), SIZES),
        st.tuples(st.just("send"), st.integers(0, 1), SIZES),
        st.tuples(st.just("receive"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("receive"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("finish"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 1), st.integers(1, 100)),
        st.tuples(st.just("reset"), st.integers(0, 1), st.integers(0, 9)),
    ),
    max_size=30,
)


class Ends:
    """Both ends of one stream, and what each has sent and read."""

    def __init__(self, net, streams):
        self.net, self.streams = net, streams
        self.sent, self.read = ([], []), ([], [])
        self.finished, self.ended, self.codes = [False, False], [False, False], []
        self.number = 0

    async def take(self, step, side, value):
        stream = self.streams[side]
        if step == "wait":
            await self.net.settle(value / 1000)
        elif step == "finish":
            stream.finish()
            self.finished[side] = True
        elif step == "reset":
            stream.reset(value)
            # A stream that both ends have finished and read is over: there is nothing to give up.
            self.codes.append(value)
        elif step == "send":
            await self.send(stream, side, value)
        else:
            await self.receive(stream, side)

    async def send(self, stream, side, size):
        self.number += 1
        note = Note(number=self.number, text="x" * size)
        try:
            async with self.net.clock.deadline(0.5):
                await stream.send(note)
        except DeadlineExceeded:
            # It waited at the window: nothing of it was sent.
            assert len(self.sent[side]) > len(self.read[1 - side])
        except StreamReset as error:
            assert error.code in self.codes
        except UsageError:
            assert self.finished[side]
        else:
            assert not self.finished[side]
            self.sent[side].append(note)

    async def receive(self, stream, side):
        try:
            async with self.net.clock.deadline(0.5):
                note = await stream.receive()
        except DeadlineExceeded:
            assert self.codes or self.read[side] == self.sent[1 - side], "half a second is enough for any frame"
            return
        except StreamReset as error:
            assert error.code in self.codes
            return
        if note is None:
            assert self.finished[1 - side]
            assert self.codes or self.read[side] == self.sent[1 - side]
            self.ended[side] = True
        else:
            self.read[side].append(note)
        self.check()

    def check(self):
        for side in (0, 1):
            assert self.read[side] == self.sent[1 - side][: len(self.read[side])]

    async def drain(self):
        """Without a reset everything arrives, and nothing else."""
        for side in (0, 1):
            while not self.codes and len(self.read[side]) < len(self.sent[1 - side]):
                await self.receive(self.streams[side], side)
            # A send that was given up does not come after all.
            await self.receive(self.streams[side], side)
        for side in (0, 1):
            self.streams[side].finish()
            self.finished[side] = True
        for side in (0, 1):
            while not self.codes and not self.ended[side]:
                await self.receive(self.streams[side], side)
        assert self.codes or [len(notes) for notes in self.read] == [len(notes) for notes in reversed(self.sent)]
        self.check()


def play(net, steps):
    async def story(net):
        a, b = await net.node(), await net.node()
        net.meet(a, b)
        loop = asyncio.get_running_loop()
        accepted, over = loop.create_future(), loop.create_future()

        async def hold(stream):
            accepted.set_result(stream)
            await over

        b.serve(ECHO, hold)
        mine = await a.open(b.peer_id, ECHO, timeout_s=5.0)
        # A stream is there for its peer with its first frame.
        first = Note(number=0)
        await mine.send(first)
        ends = Ends(net, (mine, await accepted))
        ends.sent[0].append(first)
        for step, side, value in steps:
            await ends.take(step, side, value)
        await ends.drain()
        over.set_result(None)
        await net.settle(0.2)

    net.run(story)


@settings(max_examples=examples(150), deadline=None)
@given(steps=STEPS)
@pytest.mark.parametrize("encoded", [False, True], ids=["sized", "encoded"])
def test_a_simulated_stream_is_two_lists(encoded, steps):
    net = SimNet(encoded)
    net.set_window(Params(stream_window_bytes=WINDOW_BYTES))
    play(net, steps)


@settings(max_examples=examples(60), deadline=None)
@given(steps=STEPS)
def test_a_stream_of_real_quic_is_two_lists(steps):
    net = PacketNet()
    net.network.limits = Limits(stream_window_bytes=WINDOW_BYTES)
    play(net, steps)
