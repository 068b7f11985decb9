"""Certificates and keys as they are read: whatever is wrong is told by file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from k8strace.errors import OptionError
from k8strace.secret import Secret
from k8strace.tls import material
from k8strace.tls.material import CERTIFICATES, read, system_authorities
from k8strace.tls.options import ClientTLS, ServerTLS
from tests.support.certificates import Authority, Pair, openssl


def test_files_and_texts_are_the_same(authority: Authority, client_pair: Pair) -> None:
    files = ClientTLS(ca_file=str(authority.cert), **client_pair.files)
    texts = ClientTLS(
        ca_pem=Secret(authority.cert.read_text()),
        cert_pem=Secret(client_pair.cert.read_text()),
        key_pem=Secret(client_pair.key.read_text()),
    )
    assert read(files) == read(texts)
    assert read(files).client_ca == b""
    assert read(ClientTLS()) == material.Material()


def missing(folder: Path, pair: Pair) -> Path:
    return folder / "no"


def of_folder(folder: Path, pair: Pair) -> Path:
    return folder


def of_no_name(folder: Path, pair: Pair) -> Path:
    return folder / "a\0b"


def of_key(folder: Path, pair: Pair) -> Path:
    return pair.key


def of_cert(folder: Path, pair: Pair) -> Path:
    return pair.cert


def encrypted(folder: Path, pair: Pair) -> Path:
    path = folder / "encrypted"
    openssl("pkey", "-in", pair.key, "-aes128", "-passout", "pass:x", "-out", path)
    return path


def der(folder: Path, pair: Pair) -> Path:
    path = folder / "der"
    openssl("x509", "-in", pair.cert, "-outform", "DER", "-out", path)
    return path


def malformed(folder: Path, pair: Pair) -> Path:
    path = folder / "malformed"
    path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return path


def empty(folder: Path, pair: Pair) -> Path:
    path = folder / "empty"
    path.write_bytes(b"\n")
    return path


def large(folder: Path, pair: Pair) -> Path:
    path = folder / "large"
    path.write_bytes(pair.cert.read_bytes() + bytes(material.MAX_BYTES))
    return path


@pytest.mark.parametrize(
    ("option", "make", "text"),
    [
        ("cert_file", missing, "cannot read {}: No such file"),
        ("cert_file", of_folder, "cannot read {}: Is a directory"),
        ("cert_file", of_no_name, "embedded null"),
        ("cert_file", of_key, "are certificate and key exchanged?"),
        ("cert_file", der, "`openssl x509 -inform DER`"),
        ("cert_file", malformed, "{} holds a malformed certificate"),
        ("cert_file", empty, "it is empty"),
        ("cert_file", large, "is larger than"),
        ("key_file", of_cert, "are certificate and key exchanged?"),
        ("key_file", encrypted, "{} is encrypted with a passphrase: decrypt it"),
        ("key_file", empty, "{} holds no private key in PEM"),
        ("client_ca_file", malformed, "{} holds a malformed certificate"),
        ("client_ca_file", of_key, "it holds a private key"),
    ],
)
def test_what_is_wrong_is_told(
    option: str,
    make: Callable[[Path, Pair], Path],
    text: str,
    server_pair: Pair,
    tmp_path: Path,
) -> None:
    path = make(tmp_path, server_pair)
    options = ServerTLS(**(server_pair.files | {option: str(path)}))
    with pytest.raises(OptionError) as caught:
        read(options)
    assert caught.value.path == option
    assert text.format(path) in caught.value.text


def test_no_error_shows_what_was_given() -> None:
    with pytest.raises(OptionError) as caught:
        read(ClientTLS(cert_pem=Secret("hunter2"), key_pem=Secret("hunter2")))
    assert "hunter2" not in str(caught.value)
    assert str(caught.value) == "cert_pem: holds no certificate in PEM"


def test_the_systems_authorities() -> None:
    found = CERTIFICATES.findall(system_authorities())
    assert all(one.startswith(b"-----BEGIN CERTIFICATE-----") for one in found)
