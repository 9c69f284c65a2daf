"""Who the peer is over TCP, and that every way to show a wrong certificate is an alert with the meaning it has over QUIC."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from OpenSSL._util import lib

from quiver.live.libp2p.tls_session import TlsFailed, TlsSession, count_certificates
from quiver.quic.tls import make_judge
from tests.unit.quic.pair import UTC_MS, identity, peer_id
from tests.unit.quic.wrong_identities import KEYS, RIGHT, WRONG

PROTOCOLS = ("/yamux/1.0.0", "libp2p")


def session(shown, *, is_client, expected=None, protocols=PROTOCOLS):
    judge = make_judge(lambda: UTC_MS)
    return TlsSession(shown, is_client=is_client, judge=judge, expected_peer=expected, protocols=protocols)


def shake(client, server):
    """(what the client failed with, what the server failed with); None where it did not."""
    failures = {}
    for _ in range(6):
        for source, target in ((client, server), (server, client)):
            data = source.data_to_send()
            for side in {source, target} - failures.keys():
                try:
                    side.receive(data if side is target else b"")
                except TlsFailed as error:
                    failures[side] = str(error)
    return failures.get(client), failures.get(server)


def bare(shown, *, is_client, has_certificate=True, extra=(), version=SSL.TLS1_3_VERSION):
    """A session that does what ours never would."""
    one = session(shown, is_client=is_client)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(version)
    if has_certificate:
        context.use_certificate(shown.certificate)
        context.use_privatekey(shown.private_key)
    for certificate in extra:
        context.add_extra_chain_cert(certificate)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    context.set_alpn_protos([name.encode() for name in PROTOCOLS])
    context.set_alpn_select_callback(lambda _, offered: offered[0])
    one._tls = SSL.Connection(context, None)
    one._tls.set_connect_state() if is_client else one._tls.set_accept_state()
    one.remote_peer = b"whoever"
    return one


def test_both_ends_learn_who_the_other_is():
    client, server = session(identity(1), is_client=True, expected=peer_id(2)), session(identity(2), is_client=False)
    assert shake(client, server) == (None, None)
    assert (client.remote_peer, server.remote_peer) == (peer_id(2), peer_id(1))
    assert client.protocol == server.protocol == "/yamux/1.0.0"


def test_the_certificate_made_by_hand_is_right_so_that_the_wrong_ones_are_wrong_for_one_reason():
    client, server = session(RIGHT, is_client=True), session(identity(2), is_client=False)
    assert shake(client, server) == (None, None) and server.remote_peer == KEYS.peer_id


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("is_client", [True, False])
def test_a_wrong_certificate_is_refused_by_either_side_as_bad_certificate(name, is_client):
    shown, reason = WRONG[name]
    wrong, right = session(shown, is_client=is_client), session(identity(2), is_client=not is_client)
    told, refused = shake(wrong, right) if is_client else reversed(shake(right, wrong))
    assert right.remote_peer is None and not right.is_established
    assert re.search(reason, refused)
    assert "bad certificate" in told


def test_another_peer_than_the_one_dialled_is_refused():
    client, server = session(identity(1), is_client=True, expected=peer_id(9)), session(identity(2), is_client=False)
    refused, told = shake(client, server)
    assert "another peer id" in refused and "bad certificate" in told


def test_a_client_without_certificate_is_refused():
    client, server = bare(identity(1), is_client=True, has_certificate=False), session(identity(2), is_client=False)
    told, refused = shake(client, server)
    assert "did not return a certificate" in refused and "certificate required" in told
    assert not server.is_established


def test_another_application_protocol_is_refused():
    client = session(identity(1), is_client=True, protocols=("h3",))
    told, refused = shake(client, session(identity(2), is_client=False))
    assert "application protocols" in refused and "no application protocol" in told


@pytest.mark.parametrize("is_client", [True, False])
def test_a_second_certificate_is_refused_by_either_side(is_client):
    doubled = bare(identity(1), is_client=is_client, extra=[identity(3).certificate])
    ours = session(identity(2), is_client=not is_client)
    told, refused = shake(doubled, ours) if is_client else reversed(shake(ours, doubled))
    assert "exactly one certificate may be shown, not 2" in refused and not ours.is_established
    # As over QUIC (298 = 0x100 + 42).
    assert "bad certificate" in told and ours.remote_peer is None


def certificate_message(*sizes):
    entries = b"".join(size.to_bytes(3) + b"c" * size + b"\0\2ee" for size in sizes)
    body = b"\1x" + len(entries).to_bytes(3) + entries
    return b"\x0b" + len(body).to_bytes(3) + body


@given(st.lists(st.integers(0, 300), max_size=5))
def test_certificates_are_counted_as_they_stand_in_the_message(sizes):
    assert count_certificates(certificate_message(*sizes)) == len(sizes)


@given(st.binary(max_size=60))
def test_any_message_has_a_number_of_certificates(data):
    assert 0 <= count_certificates(b"\x0b" + data) <= len(data)


def test_an_older_tls_is_refused():
    client = bare(identity(1), is_client=True, version=SSL.TLS1_2_VERSION)
    told, refused = shake(client, session(identity(2), is_client=False))
    assert "unsupported protocol" in refused and "protocol version" in told


def test_damaged_bytes_after_the_handshake_end_the_session():
    client, server = session(identity(1), is_client=True), session(identity(2), is_client=False)
    shake(client, server)
    client.write(b"secret")
    data = bytearray(client.data_to_send())
    data[-1] ^= 1
    with pytest.raises(TlsFailed, match="bad record"):
        server.receive(bytes(data))


def test_the_private_names_of_pyopenssl_are_still_there():
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    assert callable(context._verify_callback) and context._context is not None
    assert callable(lib.X509_STORE_CTX_set_error) and callable(lib.SSL_CTX_set_verify)
    assert callable(lib.SSL_CTX_set_msg_callback)
    assert lib.X509_V_ERR_CERT_REJECTED == 28
