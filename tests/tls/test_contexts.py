"""Contexts follow their files; what cannot be used changes nothing."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from k8strace.errors import OptionError
from k8strace.tls import contexts, material
from k8strace.tls.contexts import Contexts, build
from k8strace.tls.material import Material, trust
from k8strace.tls.options import ClientTLS, ServerTLS
from k8strace.units import Duration
from tests.support.certificates import Authority, Pair, openssl, self_signed
from tests.support.hanging import hanging, until

SOON = Duration(1e-9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(contexts, "monotonic", lambda: now[0])
    return now


def copied(pair: Pair, folder: Path) -> Pair:
    used = Pair(folder / "used.pem", folder / "used.key")
    pair.copy_to(used)
    return used


def test_nothing_is_looked_at_again_unless_asked_for(
    authority: Authority, tmp_path: Path, clock: list[float]
) -> None:
    used = copied(authority.issue(), tmp_path)
    one = Contexts(ServerTLS(**used.files, client_ca_file=str(authority.cert)), ("h2",))
    first = one.current()
    assert not one.may_change
    used.cert.unlink()
    clock[0] += 1e9
    assert one.current() is first


def test_a_pair_is_read_again_after_the_interval(
    authority: Authority, tmp_path: Path, clock: list[float], caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    used = copied(authority.issue("/CN=one"), tmp_path)
    one = Contexts(ServerTLS(**used.files, reload_interval=Duration(60)))
    first = one.current()
    assert one.may_change
    authority.issue("/CN=two").copy_to(used)
    clock[0] += 59
    assert one.current() is first
    clock[0] += 2
    second = one.current()
    assert second is not first
    clock[0] += 61
    assert one.current() is second  # the same files
    assert "is of CN=two until" in caplog.text
    assert f"new handshakes use what is in {used.cert}, {used.key}" in caplog.text


def test_what_cannot_be_used_is_logged_and_changes_nothing(
    authority: Authority, tmp_path: Path, clock: list[float], caplog: Any
) -> None:
    caplog.set_level(logging.ERROR)
    used = copied(authority.issue(), tmp_path)
    one = Contexts(ServerTLS(**used.files, reload_interval=Duration(10)))
    first = one.current()
    other = authority.issue("/CN=new")
    used.cert.write_bytes(other.cert.read_bytes())  # its key isn't there yet
    for _ in range(5):
        clock[0] += 11
        assert one.current() is first
    assert len(caplog.records) == 1
    assert f"key_file: {used.key} is not the key of" in caplog.text
    clock[0] += 60
    assert one.current() is first
    assert len(caplog.records) == 2
    used.cert.unlink()
    clock[0] += 11
    assert one.current() is first
    assert "No such file" in caplog.text
    other.copy_to(used)
    clock[0] += 11
    assert one.current() is not first


def test_files_of_a_mount_that_hangs(
    authority: Authority, tmp_path: Path, clock: list[float], caplog: Any
) -> None:
    used = copied(authority.issue("/CN=one"), tmp_path)
    one = Contexts(ServerTLS(**used.files, reload_interval=Duration(3600)))
    first = one.current()
    authority.issue("/CN=two").copy_to(used)
    clock[0] += 3601

    def is_changed() -> bool:
        clock[0] += 2  # the answer is not waited for until the next interval
        return one.current() is not first

    with hanging() as answer:
        assert one.current() is first
        assert not is_changed()
        answer()
        until(is_changed, expected=True)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def test_authorities_of_clients_are_followed_by_their_file(
    authority: Authority,
    server_pair: Pair,
    tmp_path: Path,
    clock: list[float],
    caplog: Any,
) -> None:
    path = tmp_path / "clients.pem"
    path.write_bytes(authority.cert.read_bytes())
    options: dict[str, Any] = {"client_ca_file": str(path), "client_ca_file_reload": True}
    one = Contexts(ServerTLS(**server_pair.files, **options))
    first = one.current()
    clock[0] += 2
    assert one.current() is first
    os.utime(path, (5, 5))
    clock[0] += 2
    assert one.current() is first  # touched, with the same content
    path.write_bytes(b"rubbish")
    assert one.current() is first  # not looked at yet
    clock[0] += 2
    assert one.current() is first
    assert f"client_ca_file: {path} holds no certificate" in caplog.text
    path.unlink()
    clock[0] += 2
    assert one.current() is first
    path.write_bytes(Authority(tmp_path, "another").cert.read_bytes())
    clock[0] += 2
    second = one.current()
    assert second is not first
    assert second.verify_mode is ssl.CERT_REQUIRED
    assert second.get_ca_certs()[0]["subject"] == ((("commonName", "another"),),)


def test_a_file_that_is_wrong_holds_up_no_other(
    authority: Authority, tmp_path: Path, clock: list[float]
) -> None:
    used = copied(authority.issue(), tmp_path)
    path = tmp_path / "clients.pem"
    path.write_bytes(authority.cert.read_bytes())
    one = Contexts(
        ServerTLS(
            **used.files,
            reload_interval=Duration(10),
            client_ca_file=str(path),
            client_ca_file_reload=True,
        )
    )
    first = one.current()
    path.write_bytes(b"rubbish")
    authority.issue().copy_to(used)
    clock[0] += 11
    assert one.current() is not first
    assert one.material.cert == used.cert.read_bytes()
    assert one.material.client_ca == authority.cert.read_bytes()


def test_a_client_trusts_what_it_is_told_to(authority: Authority, tmp_path: Path) -> None:
    own = self_signed(tmp_path)
    context = build(ClientTLS(), Material(ca=own.cert.read_bytes()))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    only = context.cert_store_stats()["x509"]
    assert only == 1
    pool = ClientTLS(ca_file="a", include_system_ca_certs_pool=True)
    both = build(pool, Material(ca=own.cert.read_bytes()))
    system = build(ClientTLS(), Material())
    assert both.cert_store_stats()["x509"] == system.cert_store_stats()["x509"] + 1
    anybody = build(ClientTLS(insecure_skip_verify=True), Material())
    assert not anybody.check_hostname
    assert anybody.verify_mode is ssl.CERT_NONE


def test_who_shows_a_certificate_is_judged_by_the_given_authorities_only(
    authority: Authority, server_pair: Pair
) -> None:
    material = Material(
        cert=server_pair.cert.read_bytes(),
        key=server_pair.key.read_bytes(),
        client_ca=authority.cert.read_bytes(),
    )
    options = ServerTLS(**server_pair.files, client_ca_file="a")
    assert build(options, material).cert_store_stats()["x509"] == 1
    assert build(options, material._replace(client_ca=b"")).verify_mode is ssl.CERT_NONE


def test_a_key_that_openssl_takes_from_nobody(tmp_path: Path) -> None:
    """It is too short for its security level."""
    pair = Pair(tmp_path / "weak.pem", tmp_path / "weak.key")
    openssl(
        *("req", "-x509", "-newkey", "rsa:512", "-nodes", "-subj", "/CN=localhost"),
        *("-keyout", pair.key, "-out", pair.cert),
    )
    with pytest.raises(OptionError, match="is not taken: ee key too small"):
        Contexts(ServerTLS(**pair.files)).read()
    pair = self_signed(tmp_path)
    pair.key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(OptionError, match=r"key_file: \S+ holds a malformed private key"):
        Contexts(ServerTLS(**pair.files)).read()


def test_one_that_peers_will_refuse_is_told_at_once(
    authority: Authority, caplog: Any
) -> None:
    for kind in (ServerTLS, ClientTLS):
        pair = authority.issue(expired=True)
        Contexts(kind(**pair.files)).read()
        assert f"the certificate in {pair.cert} expired on" in caplog.text


async def test_files_are_read_on_a_thread(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of hundreds of authorities goes to OpenSSL a few at a time."""
    bundle = tmp_path / "bundle.pem"
    pems = [authority.cert.read_text()]
    pems += [self_signed(tmp_path).cert.read_text() for _ in range(2)]
    monkeypatch.setattr(material, "AT_ONCE", 2)
    bundle.write_text("".join(pems))
    threads: set[int] = set()

    def traced(context: ssl.SSLContext, authorities: Sequence[str]) -> None:
        threads.add(threading.get_ident())
        trust(context, authorities)

    monkeypatch.setattr(contexts, "trust", traced)
    one = Contexts(ClientTLS(ca_file=str(bundle)))
    await one.load()
    assert len(one.current().get_ca_certs()) == len(pems)
    assert threads
    assert threading.get_ident() not in threads
    bundle.write_text("rubbish")
    with pytest.raises(OptionError, match="holds no certificate"):
        await Contexts(ClientTLS(ca_file=str(bundle))).load()
