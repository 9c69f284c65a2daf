"""TLS 1.3 with libp2p's authentication over a byte stream, without I/O (libp2p specs, tls; for TCP).

Both sides show exactly one certificate, judged inside the handshake. A refusal is OpenSSL's alert with the same meaning as over
QUIC: bad_certificate (a second one too), certificate_required, no_application_protocol. pyOpenSSL can neither choose an alert nor
count certificates in time, so some of its private names are used; tests/unit/live/libp2p/test_tls_session.py watches them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from quiver.errors import PeerError, WireCode
from quiver.ids import PeerId
from quiver.quic.certificate import BadCertificate, Identity
from quiver.quic.tls import ALPN, Judge

READ_BYTES = 64 * 1024
# RFC 8446, 5.1 and 4.
_HANDSHAKE_RECORD, _CERTIFICATE_MESSAGE = 22, 11


class TlsFailed(PeerError):
    """The handshake failed, or the encrypted stream was damaged."""

    wire_code = WireCode.BAD_SIGNATURE


class TlsSession:
    """One side. `protocols` are offered in ALPN, best first; the last must be `libp2p`."""

    def __init__(
        self, identity: Identity, *, is_client: bool, judge: Judge, expected_peer: PeerId | None, protocols: Sequence[str]
    ) -> None:  # fmt: skip
        self.remote_peer: PeerId | None = None
        "Set once the peer's certificate was judged."
        self.is_established = False
        self._judge = judge
        self._expected_peer = expected_peer
        self._refusal: str | None = None
        self._certificates_shown = 0
        self._has_failed = False
        self._tls = SSL.Connection(self._context(identity, is_client, [name.encode() for name in protocols]), None)
        if is_client:
            self._tls.set_connect_state()
        else:
            self._tls.set_accept_state()

    def _context(self, identity: Identity, is_client: bool, protocols: list[bytes]) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        # Resumption would skip the certificates.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.private_key)
        # OpenSSL calls both: they live as long as this.
        self._callbacks = _set_verify(context, self._on_certificate), _watch(context, self._on_message)
        if is_client:
            context.set_alpn_protos(protocols)
        else:
            context.set_alpn_select_callback(lambda _, offered: self._choose(protocols, offered))
        return context

    def _choose(self, protocols: list[bytes], offered: list[bytes]) -> bytes:
        for name in protocols:
            if name in offered:
                return name
        self._refusal = f"none of the application protocols {offered[:4]} is spoken here"
        # pyOpenSSL makes any exception the alert no_application_protocol (RFC 7301, 3.2).
        raise TlsFailed(self._refusal)

    def _on_certificate(self, _connection: object, shown: object, _error: int, _depth: int, _ok: int) -> bool:
        """OpenSSL asks for the peer's own certificate, once for each thing it minds and once more."""
        if self.remote_peer is not None:
            return True
        try:
            if self._certificates_shown != 1:
                raise BadCertificate(f"exactly one certificate may be shown, not {self._certificates_shown}")
            peer_id = self._judge(shown.to_cryptography())  # type: ignore[attr-defined]
            if self._expected_peer is not None and self._expected_peer != peer_id:
                raise BadCertificate("another peer id than the one that was dialled")
        except BadCertificate as error:
            self._refusal = str(error)
            return False
        self.remote_peer = peer_id
        return True

    def _on_message(self, message: bytes) -> None:
        """A handshake message of the peer's, before OpenSSL acts on it. It judges only the first certificate of a list."""
        if message[0] == _CERTIFICATE_MESSAGE:
            self._certificates_shown = count_certificates(message)

    @property
    def protocol(self) -> str:
        """What ALPN agreed on; `libp2p` also where the peer names nothing."""
        return bytes(self._tls.get_alpn_proto_negotiated()).decode() or ALPN

    def receive(self, data: bytes) -> bytes:
        """Feed what arrived; returns what the peer wrote. `TlsFailed` ends the connection: still send `data_to_send`."""
        try:
            return self._receive(data)
        except TlsFailed:
            self._has_failed = True
            raise

    def _receive(self, data: bytes) -> bytes:
        if data:
            self._tls.bio_write(data)
        self._handshake()
        if not self.is_established:
            return b""
        plain = bytearray()
        try:
            while True:
                plain += self._tls.recv(READ_BYTES)
        except (SSL.WantReadError, SSL.ZeroReturnError):
            return bytes(plain)
        except SSL.Error as error:
            # A refusal of our certificate arrives after our own handshake was done.
            raise TlsFailed(f"TLS: {_reason(error)}") from error

    def _handshake(self) -> None:
        if self.is_established:
            return
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return
        except (SSL.Error, TlsFailed) as error:
            raise TlsFailed(f"TLS: {self._refusal or _reason(error)}") from error
        assert self.remote_peer is not None, "no handshake completes without a certificate that was judged"
        self.is_established = True

    def write(self, data: bytes) -> None:
        """Encrypt; after the handshake only. Dropped once the stream was damaged or refused: OpenSSL writes no more then."""
        if data and not self._has_failed:
            self._tls.sendall(data)

    def data_to_send(self) -> bytes:
        """Everything to write to the network now."""
        out = bytearray()
        try:
            while True:
                out += self._tls.bio_read(READ_BYTES)
        except SSL.WantReadError:
            return bytes(out)


def _set_verify(context: SSL.Context, judge: Callable[..., bool]) -> object:
    """Ask for a certificate and let `judge` decide; a refusal is the alert bad_certificate. Keep what is returned alive."""
    mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    context.set_verify(mode, judge)
    accepts: Any = context._verify_callback

    @ffi.callback("int (*)(int, X509_STORE_CTX *)")  # type: ignore[untyped-decorator]
    def verify(ok: int, store: object) -> int:
        accepted = int(accepts(ok, store))
        if not accepted:
            # Otherwise it stays "self-signed", whose alert is unknown_ca.
            lib.X509_STORE_CTX_set_error(store, lib.X509_V_ERR_CERT_REJECTED)
        return accepted

    lib.SSL_CTX_set_verify(context._context, mode, verify)
    return verify


def _watch(context: SSL.Context, on_message: Callable[[bytes], None]) -> object:
    """Show `on_message` what arrives of the handshake. Keep what is returned alive."""

    @ffi.callback("void (*)(int, int, int, const void *, size_t, SSL *, void *)")  # type: ignore[untyped-decorator]
    def watch(
        is_ours: int, _version: int, kind: int, buffer: object, size: int, _session: object, _argument: object
    ) -> None:
        if not is_ours and kind == _HANDSHAKE_RECORD and size:
            on_message(bytes(ffi.buffer(buffer, size)))

    lib.SSL_CTX_set_msg_callback(context._context, watch)
    return watch


def count_certificates(message: bytes) -> int:
    """Entries of a Certificate message (RFC 8446, 4.4.2); what is cut counts as one."""
    at = 5 + message[4] + 3 if len(message) > 4 else len(message)
    count = 0
    while at < len(message):
        count += 1
        at += 3 + int.from_bytes(message[at : at + 3])
        at += 2 + int.from_bytes(message[at : at + 2])
    return count


def _reason(error: Exception) -> str:
    """OpenSSL's own words."""
    queue = error.args[0] if error.args else ()
    return "; ".join(str(entry[-1]) for entry in queue) if queue else "the stream was damaged"
