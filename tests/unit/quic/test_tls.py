"""Who may connect: both ends show one certificate, and every way to show a wrong one ends the connection.

Alerts travel as QUIC CRYPTO_ERROR 0x100 + description (RFC 9001, 4.8): bad_certificate 42, unsupported_certificate 43,
certificate_required 116.
"""

from __future__ import annotations

import re

import pytest
from cryptography.hazmat.primitives import serialization

from quiver.identity.keys import KeyPair
from quiver.quic.events import Closed
from tests.unit.quic.pair import UTC_MS, Pair, identity, peer_id
from tests.unit.quic.wrong_identities import WRONG

BAD_CERTIFICATE, UNSUPPORTED_CERTIFICATE = 0x100 + 42, 0x100 + 43
CERTIFICATE_REQUIRED, NO_APPLICATION_PROTOCOL = 0x100 + 116, 0x100 + 120


def test_both_ends_learn_who_the_other_is():
    pair = Pair(expected_peer=peer_id(2)).run()
    assert pair.connected(pair.client) == [peer_id(2)]
    assert pair.connected(pair.server) == [peer_id(1)]
    assert not pair.closed(pair.client) and not pair.closed(pair.server)


def refused_by_the_server(pair, code):
    """The client believes it is connected for one round trip; the server never does."""
    pair.run()
    assert pair.connected(pair.server) == []
    assert pair.closed(pair.client) == pair.closed(pair.server) == [code]


def refused_by_the_client(pair, code=BAD_CERTIFICATE):
    pair.run()
    assert pair.connected(pair.client) == pair.connected(pair.server) == []
    assert pair.closed(pair.client) == pair.closed(pair.server) == [code]


def test_a_client_without_certificate_is_refused():
    def hide(configuration):
        configuration.certificate = configuration.private_key = None

    refused_by_the_server(Pair(change=hide), CERTIFICATE_REQUIRED)


def add_certificate(configuration):
    configuration.certificate_chain = [identity(3).certificate]


def test_a_client_with_two_certificates_is_refused():
    refused_by_the_server(Pair(change=add_certificate), BAD_CERTIFICATE)


def test_a_server_with_two_certificates_is_refused():
    refused_by_the_client(Pair(change_server=add_certificate))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_certificate_is_refused_on_both_ends_and_both_learn_why(name):
    shown, reason = WRONG[name]
    for pair, refuse in (
        (Pair(client=shown), lambda pair: refused_by_the_server(pair, BAD_CERTIFICATE)),
        (Pair(server=shown), refused_by_the_client),
    ):
        refuse(pair)
        for driver in (pair.client, pair.server):
            assert re.search(reason, pair.of(driver, Closed)[0].reason)


class ShownBytes:
    """Stands for a certificate, and shows any bytes in its place."""

    def __init__(self, der):
        self.der = der

    def public_bytes(self, encoding):
        return self.der


DER = identity(1).certificate.public_bytes(serialization.Encoding.DER)
# OIDs in DER, with one byte of their body changed below: the curve P-256, and an elliptic curve key.
P256, EC_KEY = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06072a8648ce3d0201")


@pytest.mark.parametrize(
    ("der", "code"),
    [
        (b"no DER", BAD_CERTIFICATE),
        (DER.replace(bytes.fromhex("a003020102"), bytes.fromhex("a00302011d")), BAD_CERTIFICATE),  # version 29
        (DER.replace(b"2123", b"0000"), BAD_CERTIFICATE),  # valid until the year 0
        (DER.replace(P256, P256[:-1] + b"\x7f"), UNSUPPORTED_CERTIFICATE),
        (DER.replace(EC_KEY, EC_KEY[:-1] + b"\x7f"), UNSUPPORTED_CERTIFICATE),
    ],
)
def test_bytes_that_are_no_certificate_of_ours_are_an_alert_and_no_error_here(der, code):
    def show(configuration):
        configuration.certificate = ShownBytes(der)

    assert der != DER
    pair = Pair(change=show).run()
    assert pair.connected(pair.server) == [] and pair.closed(pair.server) == [code]


def test_a_certificate_outside_its_dates_is_refused_on_both_ends():
    # Valid from one hour before it is made; this one is made two hours from now.
    early = identity(5, utc_ms=UTC_MS + 2 * 3_600_000)
    refused_by_the_server(Pair(client=early), BAD_CERTIFICATE)
    refused_by_the_client(Pair(server=early))


def test_a_host_signature_over_another_key_is_refused_on_both_ends():
    forger = KeyPair(b"f" * 32)
    # It claims node 7's identity, but can only sign with its own key.
    forged = identity(7, sign=forger.sign)
    refused_by_the_server(Pair(client=forged), BAD_CERTIFICATE)
    refused_by_the_client(Pair(server=forged))


def test_another_peer_than_the_one_dialled_is_refused():
    refused_by_the_client(Pair(expected_peer=peer_id(9)))


def test_another_application_protocol_is_refused():
    def speak_http(configuration):
        configuration.alpn_protocols = ["h3"]

    refused_by_the_client(Pair(change=speak_http), NO_APPLICATION_PROTOCOL)


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_lost_datagram_only_delays_the_handshake(lost):
    pair = Pair()
    numbers = iter(range(1000))
    pair.is_lost = lambda data: next(numbers) == lost
    pair.run(3.0)
    assert pair.connected(pair.client) == [peer_id(2)]
    assert pair.connected(pair.server) == [peer_id(1)]
