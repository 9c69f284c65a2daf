"""Two drivers joined back to back, in a time of their own: every datagram arrives after `delay_s`, or is lost on request."""

from __future__ import annotations

from heapq import heappop, heappush

from quiver.identity.keys import KeyPair
from quiver.quic import certificate
from quiver.quic.connection import PeerConnection
from quiver.quic.driver import Driver
from quiver.quic.events import Changed, Closed, Connected, Opened, Terminated
from quiver.quic.limits import Limits
from quiver.quic.tls import make_configuration, make_judge
from quiver.wire.framing import Framing

UTC_MS = 1_700_000_000_000
A, B = ("10.0.0.1", 4001), ("10.0.0.2", 4001)
PROTOCOL, FRAME_MAX = "/test/1.0.0", 100_000
FRAMING = Framing(FRAME_MAX)


def identity(number, *, utc_ms=UTC_MS, public_key=None, sign=None):
    keypair = KeyPair(bytes([number]) * 32)
    return certificate.make(
        public_key=public_key or keypair.public_key,
        sign=sign or keypair.sign,
        entropy=bytes([number]) * 32,
        utc_ms=utc_ms,
    )


def peer_id(number):
    return KeyPair(bytes([number]) * 32).peer_id


class Pair:
    """`client` dials `server`. `seen` holds each side's events; `is_lost(data)` may drop datagrams."""

    def __init__(
        self,
        *,
        client=None,
        server=None,
        expected_peer=None,
        limits=None,
        delay_s=0.01,
        change=lambda c: None,
        change_server=lambda c: None,
    ):
        limits = limits or Limits()
        self.now, self.delay_s, self.is_lost = 0.0, delay_s, lambda data: False
        self.in_flight, self.count = [], 0
        self.quics = []
        for is_client, shown in ((True, client or identity(1)), (False, server or identity(2))):
            configuration = make_configuration(
                shown,
                is_client=is_client,
                idle_timeout_s=limits.idle_timeout_s,
                stream_window_bytes=limits.stream_window_bytes,
                connection_window_bytes=limits.connection_window_bytes,
            )
            (change if is_client else change_server)(configuration)
            self.quics.append(
                PeerConnection(
                    configuration=configuration,
                    judge=make_judge(lambda: UTC_MS + int(self.now * 1000)),
                    expected_peer=expected_peer if is_client else None,
                    streams_max=limits.streams_max,
                    original_destination_connection_id=None
                    if is_client
                    else self.quics[0].original_destination_connection_id,
                )
            )
        self.client, self.server = (
            Driver(quic, limits=limits, framings={PROTOCOL: FRAMING}, now=0.0) for quic in self.quics
        )
        self.seen = {self.client: [], self.server: []}
        self.started = {self.client}
        self.client.connect(B, 0.0)
        self.turn(self.client)

    def turn(self, driver):
        while (event := driver.next_event()) is not None:
            self.seen[driver].append(event)
        other, source = (self.server, A) if driver is self.client else (self.client, B)
        for data, _ in driver.datagrams_to_send(self.now):
            if not self.is_lost(data):
                self.count += 1
                heappush(self.in_flight, (self.now + self.delay_s, self.count, other, data, source))

    def flush(self):
        """Send what the test's own calls produced."""
        for driver in (self.client, self.server):
            if driver in self.started:
                self.turn(driver)

    def run(self, seconds=1.0):
        """Let `seconds` pass."""
        self.flush()
        end = self.now + seconds
        while True:
            due = [
                (timer, driver)
                for driver in (self.client, self.server)
                if driver in self.started
                if (timer := driver.timer())
            ]
            timer_at, driver = min(due, key=lambda entry: entry[0], default=(end + 1, None))
            arrival = self.in_flight[0][0] if self.in_flight else end + 1
            if min(timer_at, arrival) > end:
                self.now = end
                return self
            if arrival <= timer_at:
                self.now, _, driver, data, source = heappop(self.in_flight)
                self.started.add(driver)
                driver.receive_datagram(data, source, self.now)
            else:
                self.now = max(timer_at, self.now + 1e-6)
                driver.handle_timer(self.now)
            self.turn(driver)

    def of(self, driver, kind):
        return [event for event in self.seen[driver] if isinstance(event, kind)]

    def connected(self, driver):
        return [event.peer_id for event in self.of(driver, Connected)]

    def closed(self, driver):
        return [event.code for event in self.of(driver, Closed)]

    def opened(self, driver=None):
        return [event.stream for event in self.of(driver or self.server, Opened)]

    def stream(self):
        """A fresh stream from the client and the server's end of it."""
        mine = self.client.open(PROTOCOL, FRAMING)
        self.run(0.1)
        return mine, self.opened()[-1]


__all__ = [
    "A",
    "B",
    "Changed",
    "FRAME_MAX",
    "FRAMING",
    "PROTOCOL",
    "Pair",
    "Terminated",
    "UTC_MS",
    "identity",
    "peer_id",
]
