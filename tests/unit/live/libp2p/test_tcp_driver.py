"""Two TCP drivers against a model of frame lists, bytes cut anywhere; and the ends of streams and connections by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quiver.errors import Busy, StreamReset, WireCode
from quiver.live.libp2p.tcp_driver import LINGER_S
from quiver.quic.driver import KEEPALIVE_S
from quiver.quic.events import Terminated
from quiver.quic.limits import Limits, Refusal
from quiver.quic.rate import Rate
from quiver.quic.streams import NEGOTIATION_TIMEOUT_S
from quiver.wire.yamux_frame import encode_header
from quiver.wire.yamux_stream import INITIAL_WINDOW_BYTES
from tests.examples import examples
from tests.unit.live.libp2p.tcp_pair import TcpPair
from tests.unit.quic.pair import FRAMING, PROTOCOL, peer_id

WINDOW = 64 * 1024
SMALL = Limits(stream_window_bytes=WINDOW, unsent_bytes_max=300_000, streams_max=3, idle_timeout_s=3600.0)


def drain(driver, stream):
    frames = []
    while (frame := driver.read(stream)) is not None:
        frames.append(frame)
    return frames


def assert_empty(driver):
    """Nothing is left of any stream."""
    assert driver.streams_open == driver._session.streams_open == driver._session.unread_bytes == 0
    for books in (
        driver._unsent,
        driver._unread,
        driver._ended_sending,
        driver._lingering,
        driver._negotiating,
        driver._blocked,
    ):
        assert not books
    driver._session.validate()


class Half:
    """One end of one stream: its state in the driver, and what was done with it."""

    def __init__(self, stream):
        self.stream = stream
        self.sent, self.heard = [], []
        self.is_finished = self.has_reset = self.is_abandoned = False

    @property
    def can_write(self):
        return not self.is_finished and self.stream.write_code is None

    @property
    def can_read(self):
        return not self.is_abandoned and not self.has_reset


class TwoDrivers(RuleBasedStateMachine):
    """Rules act on either side. What one side reads is a prefix of what the other wrote, frame by frame."""

    @initialize(size=st.sampled_from([1, 7, 100, 1 << 20]))
    def begin(self, size):
        self.pair = TcpPair(limits=SMALL).run(size=size)
        self.sides = self.pair.drivers
        assert self.pair.connected(self.sides[0]) == [peer_id(2)] and self.pair.connected(self.sides[1]) == [peer_id(1)]
        self.halves = ({}, {})
        self.counter = 0

    def pick(self, side, data, wanted):
        found = [half for half in self.halves[side].values() if wanted(half)]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(side=st.integers(0, 1))
    def open(self, side):
        try:
            stream = self.sides[side].open(PROTOCOL, FRAMING)
        except Busy:
            assert self.sides[side]._session.streams_open >= 3
            return
        self.halves[side][stream.id] = Half(stream)

    @rule(side=st.integers(0, 1), size=st.one_of(st.integers(0, 50), st.sampled_from([1000, 70_000])), data=st.data())
    def write(self, side, size, data):
        half = self.pick(side, data, lambda half: half.can_write)
        if half is not None and self.sides[side].may_write(half.stream):
            self.counter += 1
            frame = self.counter.to_bytes(4, "big") + bytes(size)
            self.sides[side].write(half.stream, frame)
            half.sent.append(frame)

    @rule(side=st.integers(0, 1), data=st.data())
    def finish(self, side, data):
        if (half := self.pick(side, data, lambda half: half.can_write)) is not None:
            self.sides[side].finish(half.stream)
            half.is_finished = True

    @rule(side=st.integers(0, 1), code=st.integers(0, 0xFFFF), data=st.data())
    def reset(self, side, code, data):
        if (half := self.pick(side, data, lambda half: not half.has_reset)) is not None:
            self.sides[side].reset(half.stream, code)
            half.has_reset = True

    @rule(side=st.integers(0, 1), data=st.data())
    def abandon(self, side, data):
        if (half := self.pick(side, data, lambda half: half.can_read)) is not None:
            self.sides[side].abandon(half.stream)
            half.is_abandoned = True

    @rule(side=st.integers(0, 1), data=st.data())
    def read(self, side, data):
        half = self.pick(side, data, lambda half: half.can_read)
        if half is not None and (frame := self.sides[side].read(half.stream)) is not None:
            half.heard.append(frame)

    @rule(side=st.integers(0, 1), size=st.one_of(st.integers(1, 40), st.integers(1, 400_000)))
    def carry(self, side, size):
        self.pair.carry(self.sides[side], size)
        self.meet()

    def meet(self):
        for side in (0, 1):
            for stream in self.pair.opened(self.sides[side]):
                if stream.id not in self.halves[side]:
                    self.halves[side][stream.id] = Half(stream)

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds):
        self.pair.run(seconds)
        self.meet()

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def frames_are_prefixes_and_memory_is_bounded(self):
        for side, driver in enumerate(self.sides):
            assert not driver.is_closed, driver.ending_reason
            driver._session.validate()
            for stream_id, half in self.halves[side].items():
                other = self.halves[1 - side].get(stream_id)
                assert half.heard == ([] if other is None else other.sent[: len(half.heard)])
            # Whatever crosses the bound is one frame.
            assert driver._buffered_bytes_total() < SMALL.unsent_bytes_max + 70_010
            assert len(driver._session._out) <= (1 << 20) + 4096

    def teardown(self):
        """When everybody has finished and reads, what was not reset has arrived, and nothing is left on either side."""
        if not hasattr(self, "pair"):
            return
        for _ in range(12):
            for side, driver in enumerate(self.sides):
                for half in self.halves[side].values():
                    driver.finish(half.stream)
                    half.is_finished = True
                    if half.can_read:
                        half.heard += drain(driver, half.stream)
            self.pair.run(KEEPALIVE_S)
            self.meet()
        for side, driver in enumerate(self.sides):
            assert_empty(driver)
            for stream_id, half in self.halves[side].items():
                other = self.halves[1 - side].get(stream_id)
                ends = [half] if other is None else [half, other]
                if other is not None and not any(end.has_reset or end.is_abandoned for end in ends):
                    assert half.heard == other.sent
                if other is not None and half.can_read and not other.has_reset and half.stream.read_code is None:
                    assert half.stream.has_ended and half.heard == other.sent


TestTwoDrivers = TwoDrivers.TestCase
TestTwoDrivers.settings = settings(max_examples=examples(40), stateful_step_count=40, deadline=None)


def test_one_side_finishes_and_the_other_goes_on():
    pair = TcpPair().run()
    mine, theirs = pair.stream()
    pair.client.write(mine, b"question")
    pair.client.finish(mine)
    pair.run(60.0)
    assert drain(pair.server, theirs) == [b"question"] and theirs.has_ended and not mine.has_ended
    pair.server.write(theirs, b"late")
    pair.server.finish(theirs)
    pair.run()
    assert drain(pair.client, mine) == [b"late"] and mine.has_ended
    assert_empty(pair.client), assert_empty(pair.server)


def test_a_peer_that_goes_on_sending_on_a_stream_we_left_is_reset_after_a_while():
    pair = TcpPair().run()
    mine, theirs = pair.stream()
    pair.server.write(theirs, b"last words")
    pair.server.finish(theirs)
    pair.server.abandon(theirs)
    pair.run(1.0)
    while pair.client.may_write(mine):
        pair.client.write(mine, b"x" * 50_000)
    pair.run()
    assert pair.server._session.unread_bytes == 0 and mine.write_code is None
    assert drain(pair.client, mine) == [b"last words"]
    pair.run(LINGER_S + 3 * KEEPALIVE_S)
    assert mine.write_code == WireCode.NONE
    assert_empty(pair.client), assert_empty(pair.server)


@pytest.mark.parametrize("first", [b"", b"\x13/multi"])
def test_a_stream_that_never_names_its_protocol_is_given_up(first):
    pair = TcpPair().run()
    session = pair.client._session
    stream_id = session.open()
    session.write(stream_id, first)
    pair.run(NEGOTIATION_TIMEOUT_S - 1)
    assert pair.server.streams_open == 1
    pair.run(2.0)
    assert pair.server.streams_open == pair.server._session.streams_open == session.streams_open == 0


def test_a_stream_opened_and_ended_without_a_word_is_reset():
    pair = TcpPair().run()
    session = pair.client._session
    session.finish(session.open())
    pair.run()
    assert_empty(pair.server)
    assert session.streams_open == 0


def test_a_connection_that_is_lost_ends_every_stream_that_waits():
    pair = TcpPair().run()
    mine, theirs = pair.stream()
    pair.client.write(mine, b"half")
    pair.server.end_of_input("gone"), pair.client.end_of_input("gone")
    pair.take(pair.server), pair.take(pair.client)
    for driver, stream in ((pair.client, mine), (pair.server, theirs)):
        assert stream.read_code == stream.write_code == WireCode.NONE
        assert driver.streams_open == 0 and not driver._unsent and pair.closed(driver) == ["gone"]
        assert len(pair.of(driver, Terminated)) == 1 and driver.timer() is None
        with pytest.raises(StreamReset):
            driver.write(stream, b"x")


@pytest.mark.parametrize("carried", range(0, 3000, 150))
@pytest.mark.parametrize("who", [0, 1])
def test_either_side_may_close_anywhere_in_the_handshake(carried, who):
    pair = TcpPair()
    while carried > 0 and (moved := sum(pair.carry(driver, min(carried, 150)) for driver in pair.drivers)):
        carried -= moved
    pair.drivers[who].close(0, "changed my mind")
    pair.run()
    for driver in pair.drivers:
        driver.end_of_input("the socket is closed")
        pair.take(driver)
        assert driver.is_closed and len(pair.closed(driver)) == 1 and driver.timer() is None
        assert driver.data_to_send() == b""


def test_a_close_still_delivers_what_was_written_before_it():
    pair = TcpPair().run()
    mine, theirs = pair.stream()
    pair.client.write(mine, b"x" * 90_000)
    pair.client.finish(mine)
    pair.client.close(0, "done")
    pair.carry(pair.client)
    assert pair.closed(pair.server)
    assert drain(pair.server, theirs) == [b"x" * 90_000] and theirs.has_ended and theirs.read_code is None
    assert theirs.write_code == WireCode.SHUTDOWN


def test_a_handshake_that_stalls_anywhere_ends_at_its_deadline():
    for carried in (0, 20, 300, 1200):
        pair = TcpPair(limits=Limits(handshake_timeout_s=2.0))
        pair.carry(pair.client, carried)
        pair.now = 2.0
        assert pair.server.timer() == 2.0
        pair.server.handle_timer(2.0)
        pair.take(pair.server)
        assert pair.closed(pair.server) == ["no handshake within 2 s"]


def test_a_silent_peer_is_given_up_although_we_keep_writing():
    pair = TcpPair(limits=Limits(idle_timeout_s=5.0)).run()
    mine, _ = pair.stream()
    for _ in range(60):
        pair.now += 0.1
        if mine.write_code is None and pair.client.may_write(mine):
            pair.client.write(mine, b"x" * 1000)
        if pair.client.timer() is not None and pair.client.timer() <= pair.now:
            pair.client.handle_timer(pair.now)
        pair.client.data_to_send()
    pair.take(pair.client)
    assert pair.closed(pair.client) == ["idle timeout"] and mine.write_code == WireCode.NONE


def test_an_unread_stream_stops_its_sender_and_reading_lets_it_go_on():
    pair = TcpPair(limits=SMALL).run()
    mine, theirs = pair.stream()
    written = received = 0
    for _ in range(50):
        while pair.client.may_write(mine) and written < 100:
            pair.client.write(mine, b"x" * 10_000)
            written += 1
        pair.run()
    assert INITIAL_WINDOW_BYTES - 20_000 <= sum(map(len, theirs.frames)) <= INITIAL_WINDOW_BYTES
    assert pair.client._buffered_bytes_total() <= WINDOW + 10_003
    for _ in range(50):
        received += len(drain(pair.server, theirs))
        pair.run()
        while pair.client.may_write(mine) and written < 100:
            pair.client.write(mine, b"x" * 10_000)
            written += 1
    assert received == written == 100


def test_more_than_the_window_is_a_violation_that_ends_the_connection_by_name():
    pair = TcpPair().run()
    mine, _ = pair.stream()
    pair.client._tls.write(encode_header(0, 0, mine.id, INITIAL_WINDOW_BYTES + 1))
    pair.run()
    assert "may come" in pair.closed(pair.server)[0] and pair.closed(pair.client)


def counted(driver):
    kinds = Counter()
    driver.on_refusal = lambda kind: kinds.update([kind])
    return kinds


def test_streams_beyond_the_limit_are_refused_and_counted_and_for_ever_they_cost_the_connection():
    pair = TcpPair(limits=Limits(streams_max=2, waste=Rate(burst=5, per_s=0.001))).run()
    kinds = counted(pair.server)
    pair.client._session._streams_max = 100
    streams = [pair.client.open(PROTOCOL, FRAMING) for _ in range(4)]
    pair.run()
    assert kinds == {Refusal.STREAMS_PER_CONNECTION: 2} and pair.server.streams_open == 2
    assert [stream.write_code for stream in streams] == [None, None, WireCode.RESOURCE_LIMIT, WireCode.RESOURCE_LIMIT]
    for _ in range(4):
        pair.client.open(PROTOCOL, FRAMING)
    pair.run()
    assert kinds == {Refusal.STREAMS_PER_CONNECTION: 6, Refusal.WASTE: 1} and pair.server.is_closed


def test_more_unread_than_a_connection_may_hold_is_refused_and_counted():
    pair = TcpPair(limits=Limits(connection_window_bytes=100_000)).run()
    kinds = counted(pair.server)
    pairs = [pair.stream() for _ in range(2)]
    for mine, _ in pairs:
        pair.client.write(mine, b"x" * 60_000)
    pair.run()
    assert kinds == {Refusal.MEMORY: 1}
    assert [mine.write_code for mine, _ in pairs] == [None, WireCode.RESOURCE_LIMIT]


def test_damaged_bytes_end_the_connection_and_its_goodbye_is_no_error():
    pair = TcpPair().run()
    mine, _ = pair.stream()
    pair.client.write(mine, b"x" * 100)
    wire = bytearray(pair.client.data_to_send())
    wire[-1] ^= 1
    pair.server.receive(bytes(wire), 0.0)
    pair.take(pair.server)
    assert "TLS" in pair.closed(pair.server)[0]
    # OpenSSL's own alert, and nothing of yamux after it.
    assert pair.server.data_to_send()
