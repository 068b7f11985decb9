"""What is said of peers: their names, and why there is no connection with them."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

import pytest

from k8strace.tls.peers import name_in, speaks_tls, why_lost, why_no_client, why_no_server


def test_names_as_rfc_4514_has_them() -> None:
    subject = (
        (("countryName", "DE"),),
        (("organizationName", "system:masters"), ("organizationalUnitName", "a+b")),
        (("commonName", " a, b=c\\ "),),
    )
    assert name_in({"subject": subject}) == (
        "CN=\\ a\\, b=c\\\\\\ ,O=system:masters+OU=a\\+b,C=DE"
    )
    assert name_in({"subject": ((("commonName", "#1"),),)}) == "CN=\\#1"
    spiffe = (("URI", "spiffe://cluster/ns/a"), ("DNS", "a"))
    assert name_in({"subject": (), "subjectAltName": spiffe}) == "URI:spiffe://cluster/ns/a"
    assert name_in({"subject": ()}) is None


def failed(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] it failed (_ssl.c:1)")
    error.reason = reason
    return error


def unverified(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = message
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (failed("HTTP_REQUEST"), "plaintext HTTP"),
        (failed("WRONG_VERSION_NUMBER"), "it speaks no TLS"),
        (failed("PEER_DID_NOT_RETURN_A_CERTIFICATE"), "shows no certificate"),
        (failed("TLSV1_ALERT_UNKNOWN_CA"), "it refuses our certificate (unknown ca)"),
        (
            failed("SSLV3_ALERT_BAD_CERTIFICATE"),
            "refuses our certificate (bad certificate)",
        ),
        (failed("TLSV1_ALERT_USER_CANCELLED"), "broke the TLS handshake off (user"),
        (failed("SOMETHING_NEW"), "the TLS handshake failed: something new"),
        (unverified("certificate has expired"), "refused (certificate has expired)"),
        (ConnectionAbortedError("SSL handshake is taking longer than 1 s"), "in time"),
    ],
)
def test_why_there_is_no_client(error: Exception, text: str) -> None:
    assert text in (why_no_client(error) or "")


def test_who_only_looks_is_no_client() -> None:
    assert why_no_client(ConnectionResetError()) is None
    assert why_no_client(BrokenPipeError(32, "Broken pipe")) is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (unverified("unable to get local issuer certificate"), "give the authority"),
        (unverified("Hostname mismatch, …"), "not for 'tempo': see `server_name_override`"),
        (unverified("certificate has expired"), "renew it"),
        (unverified("something else"), "is refused: something else"),
        (failed("WRONG_VERSION_NUMBER"), "the server speaks no TLS"),
        (failed("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "wants a certificate of us"),
        (
            failed("TLSV1_ALERT_UNKNOWN_CA"),
            "the server refuses our certificate (unknown ca)",
        ),
        (failed("TLSV1_ALERT_INTERNAL_ERROR"), "broke the TLS handshake off (internal"),
        (failed("SOMETHING_NEW"), "the TLS handshake failed: something new"),
        (ConnectionResetError(), "does it speak TLS at all"),
        (OSError("no route"), "no route"),
    ],
)
def test_why_there_is_no_server(error: Exception, text: str) -> None:
    assert text in why_no_server(error, "tempo")


class Transport:
    def __init__(self, tls: object) -> None:
        self._tls = tls

    def get_extra_info(self, _: str) -> Any:
        return self._tls


def test_why_a_connection_was_lost() -> None:
    plain, tls = (cast("asyncio.BaseTransport", Transport(one)) for one in (None, 1))
    assert why_lost(None, plain, is_up=True) == "the connection was lost"
    assert why_lost(OSError("gone"), tls, is_up=True) == "gone"
    assert "does it want TLS" in why_lost(None, plain, is_up=False)
    assert "want a certificate of us" in why_lost(ConnectionResetError(), tls, is_up=False)
    alert = failed("TLSV1_ALERT_UNKNOWN_CA")
    assert "refuses our certificate" in why_lost(alert, tls, is_up=False)


def test_what_tls_begins_with() -> None:
    assert speaks_tls(b"\x16\x03\x01")
    assert speaks_tls(bytearray(b"\x15\x03\x03\x00"))
    assert not speaks_tls(b"PRI * HTTP/2.0")
    assert not speaks_tls(b"\x16")
