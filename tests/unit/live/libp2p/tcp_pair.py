"""Two TCP drivers joined back to back: bytes arrive in pieces of any size, time is by hand."""

from __future__ import annotations

from quiver.live.libp2p.tcp_driver import TcpDriver
from quiver.quic.events import Closed, Connected, Opened
from quiver.quic.limits import Limits
from quiver.quic.tls import make_judge
from tests.unit.quic.pair import FRAMING, PROTOCOL, UTC_MS, identity


class TcpPair:
    """`client` dials `server`. `carry` moves bytes; `seen` holds each side's events."""

    def __init__(self, *, client=None, server=None, expected_peer=None, limits=None):
        self.now = 0.0
        judge = make_judge(lambda: UTC_MS + int(self.now * 1000))
        self.drivers = self.client, self.server = tuple(
            TcpDriver(
                shown, is_dialer=is_dialer, judge=judge, expected_peer=expected_peer if is_dialer else None,
                limits=limits or Limits(), framings={PROTOCOL: FRAMING}, now=0.0,
            )
            for is_dialer, shown in ((True, client or identity(1)), (False, server or identity(2)))
        )  # fmt: skip
        self.wires = {driver: bytearray() for driver in self.drivers}
        "What each has sent and the other has not received."
        self.seen = {driver: [] for driver in self.drivers}

    def other(self, driver):
        return self.server if driver is self.client else self.client

    def take(self, driver):
        while (event := driver.next_event()) is not None:
            self.seen[driver].append(event)

    def carry(self, driver, size=1 << 30):
        """Up to `size` bytes from `driver` to the other one; returns how many."""
        self.take(driver)
        wire = self.wires[driver]
        wire += driver.data_to_send()
        self.take(driver)
        piece = bytes(wire[:size])
        del wire[:size]
        if piece:
            self.other(driver).receive(piece, self.now)
            self.take(self.other(driver))
        return len(piece)

    def run(self, seconds=0.0, size=1 << 30):
        """Until both are quiet; then time passes, second by second at most."""
        end = self.now + seconds
        while True:
            while sum(self.carry(driver, size) for driver in self.drivers):
                pass
            if self.now >= end:
                return self
            due = [timer for driver in self.drivers if (timer := driver.timer()) is not None]
            self.now = min([end, *(max(timer, self.now + 1e-6) for timer in due)])
            for driver in self.drivers:
                if (timer := driver.timer()) is not None and timer <= self.now:
                    driver.handle_timer(self.now)

    def of(self, driver, kind):
        return [event for event in self.seen[driver] if isinstance(event, kind)]

    def connected(self, driver):
        return [event.peer_id for event in self.of(driver, Connected)]

    def closed(self, driver):
        return [event.reason for event in self.of(driver, Closed)]

    def opened(self, driver=None):
        return [event.stream for event in self.of(driver or self.server, Opened)]

    def stream(self):
        """A fresh stream from the client and the server's end of it."""
        mine = self.client.open(PROTOCOL, FRAMING)
        self.run()
        return mine, self.opened()[-1]
