"""libp2p authentication inside aioquic's TLS: both sides show one certificate, and it is judged before anything is read.

aioquic has no public switch for this, so four private methods of its TLS context are overridden; aioquic is pinned and
tests/unit/quic/test_aioquic_private.py has one test for each private name used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509

from quiver.ids import PeerId
from quiver.quic import certificate
from quiver.quic.certificate import BadCertificate, Identity

ALPN = "libp2p"
CONNECTION_ID_BYTES = 8

Judge = Callable[[x509.Certificate], PeerId]
"""Certificate -> the peer id it proves; raises `BadCertificate`."""


class AlertCertificateRequired(tls.Alert):
    """The client showed no certificate (RFC 8446, 6.2: alert 116)."""

    description = tls.AlertDescription.certificate_required


class Libp2pTls(tls.Context):
    """Re-classed onto the context aioquic built, so that no state of its own is needed before `authenticate`."""

    judge: Judge
    expected_peer: PeerId | None
    remote_peer: PeerId | None

    def _set_peer_certificate(self, message: Any) -> None:
        if len(message.certificates) != 1:
            raise tls.AlertBadCertificate(f"exactly one certificate, not {len(message.certificates)}")
        try:
            super()._set_peer_certificate(message)
        except x509.InvalidVersion as error:
            # Not a ValueError, so aioquic lets it through.
            raise tls.AlertBadCertificate(str(error)) from error

    def _server_handle_certificate(self, input_buf: Any) -> None:
        super()._server_handle_certificate(input_buf)
        if self._peer_certificate is None:
            raise AlertCertificateRequired("the client showed no certificate")

    def _check_certificate_verify_signature(self, verify: Any) -> None:
        super()._check_certificate_verify_signature(verify)
        assert self._peer_certificate is not None
        try:
            peer_id = self.judge(self._peer_certificate)
        except BadCertificate as error:
            raise tls.AlertBadCertificate(str(error)) from error
        if self.expected_peer is not None and self.expected_peer != peer_id:
            raise tls.AlertBadCertificate("another peer id than the one that was dialled")
        self.remote_peer = peer_id


def authenticate(context: tls.Context, *, judge: Judge, expected_peer: PeerId | None) -> None:
    """Make `context` demand and judge the peer's certificate. Call right after aioquic has built it."""
    context.__class__ = Libp2pTls
    assert isinstance(context, Libp2pTls)
    context._request_client_certificate = True
    context.judge = judge
    context.expected_peer = expected_peer
    context.remote_peer = None


def make_judge(utc_ms: Callable[[], int]) -> Judge:
    """Judges by `certificate.verify` at the caller's own time."""
    return lambda shown: certificate.verify(shown, utc_ms())


def make_configuration(
    identity: Identity,
    *,
    is_client: bool,
    idle_timeout_s: float,
    stream_window_bytes: int,
    connection_window_bytes: int,
) -> QuicConfiguration:
    """QUIC v1 only, ALPN `libp2p` only, no SNI, no session tickets, no 0-RTT: resumption would skip the certificates."""
    return QuicConfiguration(
        alpn_protocols=[ALPN],
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=idle_timeout_s,
        is_client=is_client,
        max_data=connection_window_bytes,
        max_stream_data=stream_window_bytes,
        certificate=identity.certificate,
        private_key=identity.private_key,
        supported_versions=[QuicProtocolVersion.VERSION_1],
        # ssl.CERT_NONE: there is no CA; the judge takes its place.
        verify_mode=0,
    )
