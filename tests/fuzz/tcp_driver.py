"""A TCP peer that says anything: in the clear, inside TLS to either side of yamux. Refused by name, its books balance, nothing is left.

The first byte says where it begins, the second how the rest is cut. TLS itself is OpenSSL's; behind it, bytes are taken as they come.
"""

from quiver.ids import PeerId
from quiver.live.libp2p.tcp_driver import TLS, TcpDriver
from quiver.live.libp2p.tls_session import TlsSession
from quiver.quic.events import Closed, Opened
from quiver.quic.limits import Limits
from quiver.quic.rate import Rate
from quiver.quic.tls import make_judge
from quiver.wire.framing import encode_frame
from quiver.wire.multistream import encode_proposal
from quiver.wire.yamux import CONTROL_BYTES_MAX, OUTPUT_BYTES_MAX, YAMUX
from quiver.wire.yamux_frame import encode_header
from tests.unit.quic.pair import FRAMING, PROTOCOL, UTC_MS, identity

LIMITS = Limits(streams_max=4, connection_window_bytes=4096, waste=Rate(burst=20, per_s=1.0), handshake_timeout_s=5.0)
IDENTITY = identity(2)
JUDGE = make_judge(lambda: UTC_MS)
_QUESTION = encode_proposal(PROTOCOL) + encode_frame(b"question")
SEEDS = [
    b"\0\xff" + encode_proposal(TLS) + b"\x16\x03\x01\0\x05\1\0\0\1\0",
    b"\1\xff" + encode_header(0, 1, 1, len(_QUESTION)) + _QUESTION + encode_header(1, 4, 1, 0),
    b"\1\x07" + encode_header(1, 1, 3, 0) + encode_header(2, 1, 0, 9) + encode_header(1, 8, 3, 7),
    b"\2\xff" + encode_header(1, 2, 1, 0) + encode_header(0, 0, 1, 2) + b"\1x" + encode_header(3, 0, 0, 0),
    b"\3\xff" + encode_proposal(YAMUX) + encode_header(0, 1, 1, 3) + b"\2hi",
]


class ClearTls:
    """In place of TLS after its handshake."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.is_established, self.remote_peer = True, PeerId(b"peer")
        self._out = bytearray()

    def receive(self, data: bytes) -> bytes:
        return data

    def write(self, data: bytes) -> None:
        self._out += data

    def data_to_send(self) -> bytes:
        out, self._out = bytes(self._out), bytearray()
        return out


def one_input(data: bytes) -> None:
    where, size = (data[0] % 4, data[1] + 1) if len(data) > 1 else (0, 1)
    driver = TcpDriver(
        IDENTITY,
        is_dialer=where == 2,
        judge=JUDGE,
        expected_peer=None,
        limits=LIMITS,
        framings={PROTOCOL: FRAMING},
        now=0.0,
    )
    if where:
        driver._tls = ClearTls("libp2p" if where == 3 else YAMUX)  # type: ignore[assignment]
        driver._tls_begun, driver._upgrade = True, None
        driver._clear.clear()
        driver.receive(b"", 0.0)
    else:
        assert isinstance(driver._tls, TlsSession)
    opened, closed, now = [], 0, 0.0
    for at in range(2, len(data), size):
        now += 0.01
        if where == 2 and not driver.is_closed and driver._session is not None and driver.streams_open < 2:
            driver.write(driver.open(PROTOCOL, FRAMING), b"ours")
        driver.receive(data[at : at + size], now)
        while (event := driver.next_event()) is not None:
            if isinstance(event, Opened):
                opened.append(event.stream)
            closed += isinstance(event, Closed)
        _serve(driver, opened)
        _look(driver)
    # Whatever it was, time and the end of the connection leave nothing.
    for _ in range(20):
        if (due := driver.timer()) is None:
            break
        now = max(now, due)
        driver.handle_timer(now)
    driver.end_of_input("over")
    while (event := driver.next_event()) is not None:
        closed += isinstance(event, Closed)
    assert closed == 1 and driver.ending_reason and driver.timer() is None
    assert not driver._streams and not driver._unsent and not driver._blocked and not driver._negotiating


def _serve(driver: TcpDriver, opened: list) -> None:  # type: ignore[type-arg]
    for stream in opened:
        # Every other stream is read by nobody.
        if stream.id % 4 == 1:
            while (frame := driver.read(stream)) is not None:
                if stream.write_code is None and not stream.is_finished and driver.may_write(stream):
                    driver.write(stream, frame)
            if stream.has_ended:
                driver.finish(stream)


def _look(driver: TcpDriver) -> None:
    assert len(driver.data_to_send()) <= OUTPUT_BYTES_MAX + CONTROL_BYTES_MAX + 4096
    if driver._session is not None:
        driver._session.validate()
        assert driver.streams_open <= 2 * LIMITS.streams_max
    assert driver._received_bytes_total() <= LIMITS.connection_window_bytes + 4096
