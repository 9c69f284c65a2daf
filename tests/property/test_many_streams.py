"""Two real connections in a time of their own, a network that loses, repeats and reorders, and streams in any number that end in any way.

What was written arrives once and in order, as far as a stream was not given up; and when all is said both ends have nothing in their books.
"""

from __future__ import annotations

import random
from functools import partial
from heapq import heappush

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.errors import StreamReset
from quiver.quic.limits import Limits, NodeLimits, Quota
from quiver.quic.memory import Budget
from quiver.quic.rate import UNLIMITED
from tests.examples import examples
from tests.unit.quic.pair import FRAMING, PROTOCOL, A, B, Pair

STEP_S = 0.02
# With a fifth of everything lost, probes double their pauses until one of them and its answer get through: in one run of a hundred
# that takes longer than an idle timeout of 30 s, with aioquic's own packing as with ours.
PATIENCE_S = 600.0
ROUNDS_MAX = 50_000


class Rough(Pair):
    """A pair whose datagrams are lost, repeated and late, as `rng` says; `check()` looks at what is on the way."""

    def __init__(self, rng, *, loss, **arguments):
        self.rng, self.loss, self.port = rng, 0.0, 4001
        self.budget = Budget(Quota(NodeLimits()))
        super().__init__(**arguments)
        for driver in (self.client, self.server):
            driver.lease.join(self.budget)
        self.run(1.0)
        self.loss = loss

    def turn(self, driver):
        while (event := driver.next_event()) is not None:
            self.seen[driver].append(event)
        quic = driver._quic
        other, source = (self.server, (A[0], self.port)) if driver is self.client else (self.client, B)
        before = quic._loss.bytes_in_flight
        datagrams = driver.datagrams_to_send(self.now)
        # RFC 9002, 7: only a probe may go beyond the congestion window, by one datagram.
        assert quic._loss.bytes_in_flight <= max(before, quic._loss.congestion_window) + 1200
        for data, _ in datagrams:
            assert len(data) <= 1200
            for _ in range(1 + (self.rng.random() < self.loss / 4)):
                if self.rng.random() < self.loss:
                    continue
                self.count += 1
                late = self.rng.random() * 0.03 if self.loss else 0.0
                heappush(self.in_flight, (self.now + self.delay_s + late, self.count, other, data, source))
        self.check()

    def move(self, rng):
        """The client comes from another port, or where nothing is lost takes new keys.

        Across losses two of aioquic's connections may lose each other's phase for good: one run of a hundred and fifty, whoever packs.
        """
        if rng.random() < 0.5:
            self.port += 1
        elif not self.loss:
            self.quics[0].request_key_update()

    def check(self):
        for ours, theirs in (self.quics, self.quics[::-1]):
            # No more than the peer has said it takes, of any stream and of all.
            assert ours._remote_max_data_used <= ours._remote_max_data <= theirs._local_max_data.value
            assert sum(s.sender.highest_offset for s in ours._streams.values()) <= ours._remote_max_data_used
            assert theirs._unread_total == sum(theirs._unread.values())
            for stream in ours._streams.values():
                assert stream.sender.highest_offset <= (0 if stream.is_blocked else stream.max_stream_data_remote)
            for path in ours._network_paths:
                # RFC 9000, 8: an address that has shown nothing gets no more than three times what came from it.
                assert path.is_validated or path.bytes_sent <= 3 * path.bytes_received
        self.budget.validate()


class Talk:
    """One stream: what each side means to say, has said and has heard."""

    def __init__(self, rng, mine):
        self.ends = [mine, None]
        self.to_say = [
            [rng.randbytes(rng.choice((0, 1, 60, 900, 1136, 5000))) for _ in range(rng.randrange(5))] for _ in range(2)
        ]
        self.said, self.heard = ([], []), ([], [])
        self.is_cut = False

    def go_on(self, pair, rng):
        """Each side says what there is room for, hears what has come, and now and then gives up."""
        for side, driver in enumerate((pair.client, pair.server)):
            stream = self.ends[side]
            if stream is None or (stream.framing is None):
                continue
            while self.to_say[side] and stream.write_code is None and driver.may_write(stream):
                frame = self.to_say[side].pop(0)
                is_last = not self.to_say[side] and rng.random() < 0.5
                try:
                    driver.write(stream, frame, is_last=is_last)
                except StreamReset:
                    break
                self.said[side].append(frame)
            if not self.to_say[side]:
                driver.finish(stream)
            if rng.random() < 0.7:
                self.hear(side, driver)
            if rng.random() < self.cut_chance:
                self.is_cut = True
                rng.choice((driver.abandon, partial(driver.reset, code=5)))(stream)

    def hear(self, side, driver):
        while self.ends[side] is not None and (frame := driver.read(self.ends[side])) is not None:
            self.heard[side].append(frame)

    def check(self, pair):
        for side, driver in enumerate((pair.client, pair.server)):
            # A stream that is over may still be read.
            self.hear(side, driver)
        for side in (0, 1):
            said, heard = self.said[side], self.heard[1 - side]
            assert heard == said[: len(heard)]
            assert self.is_cut or heard == said and not self.to_say[side]


def play(rng, *, loss, streams, limits, cut_chance):
    pair = Rough(rng, loss=loss, limits=limits)
    Talk.cut_chance = cut_chance
    talks, waiting = {}, streams
    for round_ in range(ROUNDS_MAX):
        for _ in range(min(waiting, rng.randrange(20))):
            mine = pair.client.open(PROTOCOL, FRAMING)
            talks[mine.id] = Talk(rng, mine)
            waiting -= 1
        for theirs in pair.opened():
            talks[theirs.id].ends[1] = theirs
        for talk in talks.values():
            talk.go_on(pair, rng)
        if round_ % 50 == 25:
            pair.move(rng)
        pair.run(STEP_S)
        assert not pair.client.is_closed and not pair.server.is_closed
        if not waiting and not any(
            driver.streams_open or driver._quic._streams for driver in (pair.client, pair.server)
        ):
            break
    else:
        raise AssertionError(f"{pair.client.streams_open} and {pair.server.streams_open} streams never end")
    for talk in talks.values():
        talk.check(pair)
    pair.loss = 0.0
    pair.run(20.0)
    for driver, quic in zip((pair.client, pair.server), pair.quics, strict=True):
        assert not quic._streams and not quic._streams_queue and not quic._streams_blocked_bidi
        assert not quic._unread and quic._unread_total == 0 and quic.buffered_bytes_total() == 0
        assert not (driver._streams or driver._ignored or driver._blocked or driver._negotiating or driver._agreements)
        assert driver._held_bytes() == 0 and quic._loss.bytes_in_flight == 0
        driver.lease.measure()
        assert driver.lease.from_pool == 0
        driver.lease.leave()
    pair.budget.validate()
    # The peer has heard of every byte of credit, and may open as many streams as in the beginning.
    for ours, theirs in (pair.quics, pair.quics[::-1]):
        assert theirs._remote_max_data == ours._local_max_data.value == ours._local_max_data.sent
        assert ours._local_max_data.value - ours._local_max_data.used > limits.connection_window_bytes // 2
    limit = pair.quics[1]._local_max_streams_bidi
    assert limit.value - limit.used == limits.streams_max
    assert pair.quics[0]._remote_max_data_used == pair.quics[1]._local_max_data.used


LARGE = Limits(waste=UNLIMITED, idle_timeout_s=PATIENCE_S)
SMALL = Limits(
    stream_window_bytes=3000, connection_window_bytes=12_000, unsent_bytes_max=20_000, streams_max=16, waste=UNLIMITED,
    idle_timeout_s=PATIENCE_S,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_two_hundred_streams_through_a_fifth_of_loss(seed):
    play(random.Random(seed), loss=0.2, streams=200, limits=LARGE, cut_chance=0.005)


@settings(max_examples=examples(25), deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.2]),
    streams=st.integers(1, 40),
    cut_chance=st.sampled_from([0.0, 0.01, 0.1]),
)
def test_small_windows_and_few_streams_at_a_time(seed, loss, streams, cut_chance):
    play(random.Random(seed), loss=loss, streams=streams, limits=SMALL, cut_chance=cut_chance)
