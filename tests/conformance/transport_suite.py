"""What every `Transport` must do. Subclass `TransportSuite` and give it a `net` fixture.

`net.run(story)` runs `await story(net)` on the transport's own loop; `await net.node()` makes a node;
`net.meet(a, b)` tells each the other's addresses; `await net.crash(node)` ends it without goodbye;
`net.set_window(params)` gives nodes made from then on the window of these `Params`.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from quiver.errors import DeadlineExceeded, PeerUnreachable, StreamReset, UsageError
from quiver.params import Params
from quiver.runtime import Deadline
from quiver.wire.codec import MessageCodec


class Note(msgspec.Struct, frozen=True, kw_only=True, tag="n"):
    """A test message."""

    number: int
    text: str = ""


ECHO = MessageCodec("/quiver/test-echo/1.0.0", Note, frame_bytes_max=1 << 20)
OTHER = MessageCodec("/quiver/test-other/1.0.0", Note, frame_bytes_max=1 << 20)


async def echo(stream):
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)
    stream.finish()


class TransportSuite:
    """Behaviour of the port, by name."""

    def pair(self, net, story):
        async def main(net):
            a, b = await net.node(), await net.node()
            net.meet(a, b)
            await story(a, b)

        net.run(main)

    def test_an_rpc_is_answered_and_names_its_asker(self, net):
        async def story(a, b):
            asked = []
            b.answer(ECHO, lambda peer, note: asked.append(peer) or Note(number=note.number + 1))
            assert await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5) == Note(number=2)
            assert asked == [a.peer_id]

        self.pair(net, story)

    def test_many_rpcs_at_once_keep_their_answers_apart(self, net):
        async def story(a, b):
            b.answer(ECHO, lambda peer, note: note)
            answers = await asyncio.gather(*(a.rpc(b.peer_id, ECHO, Note(number=n), timeout_s=10) for n in range(50)))
            assert [note.number for note in answers] == list(range(50))

        self.pair(net, story)

    def test_both_ends_may_ask_on_one_connection(self, net):
        async def story(a, b):
            a.answer(ECHO, lambda peer, note: Note(number=10))
            b.answer(ECHO, lambda peer, note: Note(number=20))
            assert (await a.rpc(b.peer_id, ECHO, Note(number=0), timeout_s=5)).number == 20
            assert (await b.rpc(a.peer_id, ECHO, Note(number=0), timeout_s=5)).number == 10

        self.pair(net, story)

    def test_a_protocol_nobody_serves_is_refused(self, net):
        async def story(a, b):
            b.answer(ECHO, lambda peer, note: note)
            with pytest.raises(StreamReset):
                await a.rpc(b.peer_id, OTHER, Note(number=1), timeout_s=5)
            assert (await a.rpc(b.peer_id, ECHO, Note(number=3), timeout_s=5)).number == 3

        self.pair(net, story)

    def test_an_unknown_peer_is_unreachable(self, net):
        async def story(a, b):
            with pytest.raises((PeerUnreachable, DeadlineExceeded)):
                await a.rpc(net.stranger(), ECHO, Note(number=1), timeout_s=2)

        self.pair(net, story)

    def test_frames_arrive_whole_and_in_order(self, net):
        async def story(a, b):
            b.serve(ECHO, echo)
            stream = await a.open(b.peer_id, ECHO, timeout_s=5)
            assert stream.peer_id == b.peer_id
            sent = [Note(number=n, text="x" * (n * 37 % 2000)) for n in range(100)]

            async def send():
                for note in sent:
                    await stream.send(note)
                stream.finish()

            sender = asyncio.get_running_loop().create_task(send())
            received = []
            while (note := await stream.receive()) is not None:
                received.append(note)
            await sender
            assert received == sent

        self.pair(net, story)

    def test_half_close_leaves_the_other_direction_open(self, net):
        async def story(a, b):
            async def count(stream):
                total = 0
                while await stream.receive() is not None:
                    total += 1
                await stream.send(Note(number=total))
                stream.finish()

            b.serve(ECHO, count)
            stream = await a.open(b.peer_id, ECHO, timeout_s=5)
            for n in range(5):
                await stream.send(Note(number=n))
            stream.finish()
            stream.finish()
            with pytest.raises(UsageError):
                await stream.send(Note(number=9))
            assert await stream.receive() == Note(number=5)
            assert await stream.receive() is None
            assert await stream.receive() is None

        self.pair(net, story)

    def test_a_reset_reaches_the_waiting_peer_with_its_code(self, net):
        async def story(a, b):
            seen = asyncio.get_running_loop().create_future()

            async def handler(stream):
                await stream.receive()
                try:
                    await stream.receive()
                except StreamReset as error:
                    seen.set_result(error.code)
                    raise

            b.serve(ECHO, handler)
            stream = await a.open(b.peer_id, ECHO, timeout_s=5)
            await stream.send(Note(number=1))
            await net.settle()
            stream.reset(0x2007)
            stream.reset(0x2008)
            with pytest.raises(StreamReset):
                await stream.receive()
            async with Deadline(5):
                assert await seen == 0x2007

        self.pair(net, story)

    def test_a_handler_that_raises_resets_its_stream_only(self, net):
        async def story(a, b):
            async def broken(stream):
                await stream.receive()
                raise StreamReset(0x2004, "as planned")

            b.serve(ECHO, broken)
            b.answer(OTHER, lambda peer, note: note)
            stream = await a.open(b.peer_id, ECHO, timeout_s=5)
            await stream.send(Note(number=1))
            with pytest.raises(StreamReset) as caught:
                async with Deadline(5):
                    await stream.receive()
            assert caught.value.code == 0x2004
            assert (await a.rpc(b.peer_id, OTHER, Note(number=3), timeout_s=5)).number == 3

        self.pair(net, story)

    def test_a_slow_reader_stops_the_sender(self, net):
        async def story(a, b):
            gate = asyncio.Event()

            async def slow(stream):
                await gate.wait()
                while await stream.receive() is not None:
                    pass
                stream.finish()

            b.serve(ECHO, slow)
            stream = await a.open(b.peer_id, ECHO, timeout_s=5)
            sent = 0

            async def flood():
                nonlocal sent
                for n in range(400):
                    await stream.send(Note(number=n, text="x" * 20_000))
                    sent += 1
                stream.finish()

            sender = asyncio.get_running_loop().create_task(flood())
            await net.settle(1.0)
            assert 0 < sent < 400, "8 MB fitted into the window"
            gate.set()
            assert await stream.receive() is None
            await sender
            assert sent == 400

        self.pair(net, story)

    @pytest.mark.parametrize("window_bytes", [8 * 1024, 64 * 1024])
    def test_a_writer_whose_reader_does_not_read_is_held_at_about_the_window(self, net, window_bytes):
        net.set_window(Params(stream_window_bytes=window_bytes))
        text = "x" * 1000

        async def story(a, b):
            gate = asyncio.Event()

            async def slow(stream):
                await gate.wait()
                while await stream.receive() is not None:
                    pass
                stream.finish()

            b.serve(ECHO, slow)
            stream = await a.open(b.peer_id, ECHO, timeout_s=5)
            sent_bytes = 0

            async def flood():
                nonlocal sent_bytes
                for n in range(1000):
                    await stream.send(Note(number=n, text=text))
                    sent_bytes += len(text)
                stream.finish()

            sender = asyncio.get_running_loop().create_task(flood())
            held_bytes = -1
            while sent_bytes != held_bytes:
                held_bytes = sent_bytes
                await net.settle(1.0)
            # One window at the reader; a sender may hold another one of bytes that are not acknowledged. One frame goes over.
            # yamux begins with 256 KiB, whatever we would like.
            window = max(window_bytes, getattr(net, "window_bytes_min", 0))
            assert window / 2 <= held_bytes <= 2 * window + 2 * len(text)
            gate.set()
            assert await stream.receive() is None
            await sender
            assert sent_bytes == 1000 * len(text)

        self.pair(net, story)

    def test_cancelling_a_receive_loses_no_frame(self, net):
        async def story(a, b):
            b.serve(ECHO, echo)
            stream = await a.open(b.peer_id, ECHO, timeout_s=5)
            for _ in range(3):
                with pytest.raises(DeadlineExceeded):
                    async with Deadline(0.01):
                        await stream.receive()
            await stream.send(Note(number=7))
            assert await stream.receive() == Note(number=7)

        self.pair(net, story)

    def test_an_rpc_without_answer_ends_at_its_deadline(self, net):
        async def story(a, b):
            async def silent(stream):
                await asyncio.Event().wait()

            b.serve(ECHO, silent)
            with pytest.raises(DeadlineExceeded):
                await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=0.3)

        self.pair(net, story)

    def test_a_crashed_peer_ends_every_await(self, net):
        async def story(a, b):
            b.serve(ECHO, echo)
            stream = await a.open(b.peer_id, ECHO, timeout_s=5)
            await stream.send(Note(number=1))
            assert await stream.receive() == Note(number=1)
            await net.crash(b)
            with pytest.raises((StreamReset, DeadlineExceeded)):
                async with Deadline(90):
                    await stream.receive()
            with pytest.raises((PeerUnreachable, DeadlineExceeded, StreamReset)):
                await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=2)

        self.pair(net, story)

    def test_round_trip_time_is_known_after_an_exchange(self, net):
        async def story(a, b):
            assert a.rtt_s(b.peer_id) is None
            b.answer(ECHO, lambda peer, note: note)
            await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
            assert a.rtt_s(b.peer_id) >= 0

        self.pair(net, story)
