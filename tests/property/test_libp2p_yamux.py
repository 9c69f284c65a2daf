"""Two yamux sessions against a model of byte lists, bytes cut anywhere; and a session fed anything at all."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quiver.errors import Busy
from quiver.wire.yamux import CONTROL_BYTES_MAX, OUTPUT_BYTES_MAX, YamuxSession
from quiver.wire.yamux_events import (
    CreditReceived,
    DataReceived,
    PongReceived,
    SessionEnded,
    StreamAborted,
    StreamEnded,
    StreamOpened,
)
from quiver.wire.yamux_frame import encode_header
from tests.examples import examples
from tests.property.messages import mutations

KIB = 1024
SIZES = st.one_of(st.integers(0, 50), st.sampled_from([64 * KIB, 128 * KIB + 1, 256 * KIB, 300 * KIB]))


class Half:
    """What one end of one stream has done and heard."""

    def __init__(self):
        self.sent = bytearray()
        self.heard = bytearray()
        self.unread = 0
        self.is_finished = self.has_heard_end = self.has_reset = self.is_aborted = self.is_blocked = False

    @property
    def is_over(self):
        return self.has_reset or self.is_aborted

    @property
    def is_done(self):
        return self.is_over or (self.is_finished and self.has_heard_end)


class TwoSessions(RuleBasedStateMachine):
    """Rules act on either side; `carry` moves any number of bytes. What one side hears is a prefix of what the other sent."""

    @initialize(windows=st.tuples(st.sampled_from([256, 300, 1024]), st.sampled_from([256, 512])))
    def begin(self, windows):
        self.sessions = [
            YamuxSession(is_dialer=side == 0, window_bytes=window * KIB, streams_max=3)
            for side, window in enumerate(windows)
        ]
        self.wire = [bytearray(), bytearray()]
        self.halves = [{}, {}]
        self.counter = 0
        self.pings = [[], []]

    def live(self, side):
        return [stream_id for stream_id, half in self.halves[side].items() if not half.is_over]

    def choose(self, data, side):
        ids = self.live(side)
        return data.draw(st.sampled_from(ids)) if ids else None

    @rule(side=st.integers(0, 1))
    def open(self, side):
        try:
            stream_id = self.sessions[side].open()
        except Busy:
            ours = [half for stream_id, half in self.halves[side].items() if stream_id % 2 != side]
            assert sum(not half.is_done for half in ours) == 3
            return
        assert stream_id % 2 != side and stream_id not in self.halves[side]
        self.halves[side][stream_id] = Half()

    @rule(side=st.integers(0, 1), size=SIZES, data=st.data())
    def write(self, side, size, data):
        stream_id = self.choose(data, side)
        if stream_id is None or self.halves[side][stream_id].is_finished:
            return
        half = self.halves[side][stream_id]
        self.counter += 1
        payload = self.counter.to_bytes(4, "big") * (size // 4 + 1)
        taken = self.sessions[side].write(stream_id, payload[:size])
        assert 0 <= taken <= size
        half.sent += payload[:taken]
        half.is_blocked = taken < size

    @rule(side=st.integers(0, 1), data=st.data())
    def finish(self, side, data):
        if (stream_id := self.choose(data, side)) is not None:
            self.sessions[side].finish(stream_id)
            self.halves[side][stream_id].is_finished = True

    @rule(side=st.integers(0, 1), code=st.integers(0, (1 << 32) - 1), data=st.data())
    def reset(self, side, code, data):
        if (stream_id := self.choose(data, side)) is not None:
            self.sessions[side].reset(stream_id, code)
            self.halves[side][stream_id].has_reset = True
            self.halves[side][stream_id].unread = 0

    @rule(side=st.integers(0, 1), part=st.floats(0, 1), data=st.data())
    def consume(self, side, part, data):
        if (stream_id := self.choose(data, side)) is not None:
            half = self.halves[side][stream_id]
            size = round(half.unread * part)
            self.sessions[side].consume(stream_id, size)
            half.unread -= size

    @rule(side=st.integers(0, 1))
    def ping(self, side):
        if len(self.pings[side]) < 8:
            self.pings[side].append(self.sessions[side].ping())

    @rule(side=st.integers(0, 1), cut=st.one_of(st.integers(1, 30), st.integers(1, 400 * KIB)))
    def carry(self, side, cut):
        self.wire[side] += self.sessions[side].data_to_send()
        piece = bytes(self.wire[side][:cut])
        del self.wire[side][:cut]
        for event in self.sessions[1 - side].receive(piece):
            self.hear(1 - side, event)

    def hear(self, side, event):
        if isinstance(event, PongReceived):
            assert event.value == self.pings[side].pop(0)
            return
        assert not isinstance(event, SessionEnded), event
        if isinstance(event, StreamOpened):
            assert event.stream_id in self.halves[1 - side] and event.stream_id not in self.halves[side]
            self.halves[side][event.stream_id] = Half()
            return
        half, other = self.halves[side][event.stream_id], self.halves[1 - side].get(event.stream_id)
        assert not half.is_over
        if isinstance(event, DataReceived):
            assert not half.has_heard_end and event.data
            half.heard += event.data
            half.unread += len(event.data)
            assert other.sent[: len(half.heard)] == half.heard
        elif isinstance(event, StreamEnded):
            assert other.is_finished and half.heard == other.sent
            half.has_heard_end = True
        elif isinstance(event, StreamAborted):
            # Reset by the other end, or refused there because it has too many streams.
            assert other.has_reset if other is not None else event.code == 0x1002
            half.is_aborted, half.unread = True, 0
        elif isinstance(event, CreditReceived):
            assert half.is_blocked

    @precondition(lambda self: hasattr(self, "sessions"))
    @invariant()
    def books_agree(self):
        for session, halves in zip(self.sessions, self.halves, strict=True):
            session.validate()
            assert session.unread_bytes == sum(half.unread for half in halves.values())

    def teardown(self):
        """Once everybody reads and finishes, all that was sent has arrived and both sessions are empty."""
        if not hasattr(self, "sessions"):
            return
        is_moving = True
        while is_moving:
            is_moving = False
            for side, session in enumerate(self.sessions):
                for stream_id in self.live(side):
                    half = self.halves[side][stream_id]
                    session.finish(stream_id)
                    session.consume(stream_id, half.unread)
                    half.is_finished, half.unread = True, 0
                self.wire[side] += session.data_to_send()
                is_moving = is_moving or bool(self.wire[side])
                self.carry(side, 1 << 30)
        for side, session in enumerate(self.sessions):
            session.validate()
            assert session.streams_open == session.unread_bytes == 0 and not self.pings[side]
            for stream_id in self.live(side):
                half, other = self.halves[side][stream_id], self.halves[1 - side][stream_id]
                assert half.has_heard_end and half.heard == other.sent


TestTwoSessions = TwoSessions.TestCase
TestTwoSessions.settings = settings(max_examples=examples(60), stateful_step_count=40)


# ---- a peer that sends anything


HEADERS = st.builds(
    encode_header,
    st.integers(0, 4),
    st.sampled_from([0, 1, 2, 4, 8, 5, 3, 9, 16, 0xFFFF]),
    st.sampled_from([0, 1, 2, 3, 4, 5, 7, 1 << 31]),
    st.one_of(st.integers(0, 20), st.sampled_from([1 << 18, (1 << 18) + 1, 1 << 24, (1 << 32) - 1])),
)
STREAM_BYTES = st.lists(st.one_of(HEADERS, st.binary(max_size=20)), max_size=12).map(b"".join)


def act(session, data, opened, finished):
    """One thing an application might do."""
    what = data.draw(st.sampled_from(["open", "write", "finish", "reset", "consume", "stop", "accept", "nothing"]))
    stream_id = data.draw(st.sampled_from([*opened, 99]))
    if what == "open":
        try:
            opened.append(session.open())
        except Busy:
            assert session.streams_open >= 3
    elif what == "write" and stream_id not in finished:
        assert 0 <= session.write(stream_id, b"five!") <= 5
    elif what == "finish":
        session.finish(stream_id)
        finished.add(stream_id)
    elif what == "reset":
        session.reset(stream_id, 7)
    elif what == "consume":
        session.consume(stream_id, data.draw(st.integers(0, 100)))
    elif what == "stop":
        session.stop_reading(stream_id)
    elif what == "accept":
        session.accept(stream_id)


@settings(max_examples=examples(300))
@given(st.data(), st.booleans())
def test_any_bytes_are_events_or_end_the_session_by_name(data, is_dialer):
    session = YamuxSession(is_dialer=is_dialer, streams_max=3, unread_bytes_max=30)
    opened, finished = [], set()
    for _ in range(data.draw(st.integers(1, 6))):
        if session.ending is None:
            act(session, data, opened, finished)
        for event in session.receive(data.draw(STREAM_BYTES)):
            if isinstance(event, StreamOpened):
                opened.append(event.stream_id)
            elif isinstance(event, SessionEnded):
                assert event.reason and session.ending == event
        session.validate()
        assert session.streams_open <= 6
        assert len(session.data_to_send()) <= OUTPUT_BYTES_MAX + CONTROL_BYTES_MAX
    if session.ending is not None:
        assert session.streams_open == session.unread_bytes == 0
        assert session.receive(b"\0" * 24) == []


@settings(max_examples=examples(200))
@given(st.data(), st.lists(st.integers(1, 60), max_size=10))
def test_changed_bytes_of_a_real_session_do_no_harm(data, cuts):
    ours = YamuxSession(is_dialer=True)
    first, second = ours.open(), ours.open()
    ours.write(first, b"question" * 10)
    ours.finish(first)
    ours.ping()
    ours.write(second, b"another")
    ours.reset(second, 5)
    changed = data.draw(mutations(ours.data_to_send()))
    whole, pieces = YamuxSession(is_dialer=False), YamuxSession(is_dialer=False)
    at_once, in_pieces = whole.receive(changed), []
    for cut in [*cuts, len(changed)]:
        in_pieces += pieces.receive(changed[:cut])
        changed = changed[cut:]
        pieces.validate()
    assert joined(at_once) == joined(in_pieces)
    assert whole.data_to_send() == pieces.data_to_send()


def joined(events):
    """Events with consecutive data of one stream as one piece."""
    result = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, DataReceived) and isinstance(last, DataReceived) and last.stream_id == event.stream_id:
            result[-1] = DataReceived(event.stream_id, last.data + event.data)
        else:
            result.append(event)
    return result
