"""Who is at the other end of a TLS connection, and why there is none."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from k8strace.tls.incoming import HelloTooLargeError

_SHORT = {
    "commonName": "CN",
    "serialNumber": "SERIALNUMBER",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "postalCode": "POSTALCODE",
    "domainComponent": "DC",
    "userId": "UID",
}
_RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake
PLAINTEXT_PORT = (
    "it speaks TLS, and this port is plaintext: give the receiver `tls`, or have the "
    "client use no TLS (http://, insecure)"
)
NO_HTTP2 = (
    "it wants no HTTP/2 by ALPN, so it is no gRPC client: is it meant for the port of "
    "OTLP/HTTP?"
)
NO_TLS = "the server speaks TLS: write https://, or leave `insecure: true` out"
_CLIENT_SAID = (
    "it refuses our certificate ({}): does it trust the authority of `cert_file`?"
)
_BROKEN_OFF = "the other side broke the TLS handshake off ({})"
_OF_CLIENTS = {
    "HTTP_REQUEST": "it speaks plaintext HTTP, and this port has TLS: have it use https://",
    "WRONG_VERSION_NUMBER": (
        "it speaks no TLS, and this port has TLS: have it use https://, not insecure"
    ),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": (
        "it shows no certificate, which `client_ca_file` demands: give it one"
    ),
    "NO_SHARED_CIPHER": "it offers no cipher suite that fits `cipher_suites` and our key",
    "UNSUPPORTED_PROTOCOL": "it offers no version within `min_version` and `max_version`",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "it offers no signature that our key can give",
}
_SERVER_SAID = "the server refuses our certificate ({}): see `cert_file`"
_OF_SERVERS = {
    "WRONG_VERSION_NUMBER": (
        "the server speaks no TLS: write http:// or `tls: {insecure: true}`"
    ),
    "UNSUPPORTED_PROTOCOL": (
        "the server has no version of TLS within `min_version` and `max_version`"
    ),
    "TLSV1_ALERT_PROTOCOL_VERSION": (
        "the server takes no version of TLS within `min_version` and `max_version`"
    ),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "the server refuses the handshake: do `cipher_suites` suit it, does it want a "
        "certificate (`cert_file`, `key_file`)?"
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "the server wants a certificate of us: give `cert_file` and `key_file`"
    ),
}
_UNTRUSTED = "unable to get", "self-signed", "self signed", "unable to verify"


def speaks_tls(data: bytes | bytearray) -> bool:
    """Whether the first bytes of a connection that is plaintext to us are TLS's."""
    return bytes(data[:2]) in _RECORDS


def subject_of(transport: asyncio.BaseTransport) -> str | None:
    """Whom the peer's certificate, which was verified, names; None without one.

    As Go writes it (RFC 4514); of one without subject its first alternative name.
    """
    tls = transport.get_extra_info("ssl_object")
    found: dict[str, Any] | None = None if tls is None else tls.getpeercert()
    return name_in(found) if found else None


def name_in(certificate: dict[str, Any]) -> str | None:
    parts = [
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in group)
        for group in reversed(certificate.get("subject", ()))
    ]
    if parts:
        return ",".join(parts)
    for kind, value in certificate.get("subjectAltName", ()):
        return f"{kind}:{value}"
    return None


def _escaped(value: str) -> str:
    text = "".join(f"\\{c}" if c in ',+"\\<>;' else c for c in value)
    text = text.replace("\0", "\\00")
    if text.startswith(("#", " ")):
        text = f"\\{text}"
    return f"{text[:-1]}\\ " if text.endswith(" ") and len(text) > 1 else text


def why_no_client(error: Exception) -> str | None:
    """Why a handshake with a client failed; None where it only came and went.

    Load balancers and probes connect and say nothing, which is no failure.
    """
    if not isinstance(error, ssl.SSLError):
        text = str(error)
        return "it did not finish the TLS handshake in time" if "taking" in text else None
    if isinstance(error, HelloTooLargeError):
        return f"the TLS handshake was broken off: {error.args[0]}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused ({error.verify_message}): see `client_ca_file`"
    reason = error.reason or ""
    if alert := _alert(reason):
        said = _CLIENT_SAID if _is_about_certificate(alert) else _BROKEN_OFF
        return said.format(alert)
    return _OF_CLIENTS.get(reason, f"the TLS handshake failed: {_text(error)}")


def why_no_server(error: Exception, name: str) -> str:
    """Why there is no connection to a server that was to be `name`, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = error.verify_message
        if any(part in text for part in _UNTRUSTED):
            text += (
                "; give the authority that it is from, or itself if it is self-signed, in "
                "`ca_file`"
            )
        elif "match" in text:
            text += f"; it is not for {name!r}: see `server_name_override`"
        elif "expired" in text or "not yet" in text:
            text += "; renew it, or see to the clocks"
        return f"the server's certificate is refused: {text}"
    if isinstance(error, (ConnectionResetError, ConnectionAbortedError)):
        return (
            "the server broke the connection off during the TLS handshake: does it speak "
            "TLS at all (else http://), does it want a certificate of us (`cert_file`), "
            "has it our versions and `cipher_suites`?"
        )
    if not isinstance(error, ssl.SSLError):
        return str(error)
    reason = error.reason or ""
    if known := _OF_SERVERS.get(reason):
        return known
    if alert := _alert(reason):
        said = _SERVER_SAID if _is_about_certificate(alert) else _BROKEN_OFF
        return said.format(alert)
    return f"the TLS handshake failed: {_text(error)}"


def why_lost(
    error: Exception | None, transport: asyncio.BaseTransport, *, is_up: bool
) -> str:
    """Why a connection to a server ended; what to do where it never said anything."""
    if isinstance(error, ssl.SSLError):
        return why_no_server(error, "")
    text = str(error or "") or "the connection was lost"
    if is_up:
        return text
    if transport.get_extra_info("ssl_object") is None:
        return f"{text} before the server said anything: does it want TLS (https://)?"
    return (
        f"{text} before the server said anything: does it want a certificate of us "
        "(`cert_file`, `key_file`), or another one?"
    )


def _alert(reason: str) -> str:
    """What the other side says by an alert, in words; empty where it is none."""
    _, alert, said = reason.partition("_ALERT_")
    return said.lower().replace("_", " ") if alert else ""


def _is_about_certificate(alert: str) -> bool:
    return "certificate" in alert or alert == "unknown ca"


def _text(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
