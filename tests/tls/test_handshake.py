"""What a certificate says of itself, and what its peers will say to it."""

from __future__ import annotations

import ssl
from pathlib import Path

from k8strace.tls.handshake import Certificate, inspect
from tests.support.certificates import Authority, Pair, self_signed


def seen(pair: Pair, *, of_server: bool, ciphers: str = "") -> Certificate:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ciphers:
        server.maximum_version = ssl.TLSVersion.TLSv1_2
        server.set_ciphers(ciphers)
    server.load_cert_chain(*pair)
    client.load_cert_chain(*pair)
    return inspect(server, client, pair.cert.read_text(), of_server=of_server)


def test_on_both_sides(authority: Authority, tmp_path: Path) -> None:
    for pair in (authority.issue("/O=a/CN=b"), self_signed(tmp_path, "/O=a/CN=b")):
        for of_server in (True, False):
            found = seen(pair, of_server=of_server)
            assert found.subject == "CN=b,O=a"
            assert ssl.cert_time_to_seconds(found.until) > 0
            assert found.problems == ()


def test_one_that_is_over(authority: Authority) -> None:
    for of_server in (True, False):
        found = seen(authority.issue(expired=True), of_server=of_server)
        assert "expired on" in found.problems[0]


def test_one_that_is_not_for_this(authority: Authority) -> None:
    pair = authority.issue(extension="extendedKeyUsage=clientAuth")
    assert seen(pair, of_server=False).problems == ()
    (problem,) = seen(pair, of_server=True).problems
    assert "purpose" in problem


def test_one_that_fits_no_cipher(authority: Authority) -> None:
    pair = authority.issue()
    (problem,) = seen(pair, of_server=True, ciphers="ECDHE-RSA-AES128-GCM-SHA256").problems
    assert problem == "cannot be shown to anybody: no shared cipher"
