"""Certificates and keys as bytes: read from where options say, checked, told apart."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from k8strace.errors import OptionError
from k8strace.files import FileReader
from k8strace.tls.options import ServerTLS, TLSOptions

CERTIFICATES = re.compile(
    rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----\s.+?-----END [^\n]*?-----", re.DOTALL
)
_KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----")
_ENCRYPTED = (b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")
AT_ONCE = 32  # certificates, some milliseconds of OpenSSL's
MAX_BYTES = 4 * 1024 * 1024  # of a file; the largest bundles have a few hundred KiB


class Material(NamedTuple):
    """PEM; empty where the options name none."""

    ca: bytes = b""
    cert: bytes = b""
    key: bytes = b""
    client_ca: bytes = b""


class Source:
    """Where one of `Material` is, by its name there: a file that may change, or an option.

    A file is read without holding up the event loop for long.
    """

    def __init__(self, options: TLSOptions, name: str) -> None:
        self._options = options
        self._name = name
        path = getattr(options, f"{name}_file", "")
        self._reader = FileReader(path, MAX_BYTES) if path else None
        self._found: bytes | OptionError = b""

    @property
    def is_waiting(self) -> bool:
        """Whether a file was looked at, and there is no answer yet."""
        return self._reader is not None and self._reader.is_waiting

    def read(self) -> bytes:
        """Read it now. Raises OptionError."""
        self._find(first=True)
        return self.found()

    def look(self) -> bytes:
        """What is known to be there now. Raises OptionError."""
        if self._reader is not None:
            self._find(first=False)
        return self.found()

    def found(self) -> bytes:
        """What was there the last time. Raises OptionError."""
        if isinstance(self._found, OptionError):
            raise self._found
        return self._found

    def _find(self, *, first: bool) -> None:
        options, name, reader = self._options, self._name, self._reader
        try:
            if reader is None:
                pem = getattr(options, f"{name}_pem", None)
                text = pem.reveal().encode() if pem else None
            else:
                text = reader.read() if first else reader.look()
            if text is not None:
                self._found = b""
                _check(options, name, text)
                self._found = text
        except OptionError as error:
            self._found = error
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            path = "" if reader is None else reader.path
            wrong = OptionError(f"{name}_file", f"cannot read {path}: {why}")
            if isinstance(error, TimeoutError) and not first:
                raise wrong from error  # what was found before is all that is known
            self._found = wrong


def sources(options: TLSOptions) -> dict[str, Source]:
    """Where all of `Material` is."""
    names = [name for name in Material._fields if name != "ca" or _has_ca(options)]
    return {name: Source(options, name) for name in names}


def read(options: TLSOptions) -> Material:
    """Read what `options` name. Raises OptionError."""
    return Material(**{name: one.read() for name, one in sources(options).items()})


def _has_ca(options: TLSOptions) -> bool:
    return not isinstance(options, ServerTLS)


def wrong(options: TLSOptions, name: str, text: str) -> OptionError:
    """The error of an option's content: it names the file, and never what is in it."""
    path = getattr(options, f"{name}_file", "")
    option = f"{name}_file" if path else f"{name}_pem"
    return OptionError(option, f"{path} {text}" if path else text)


def _check(options: TLSOptions, name: str, text: bytes) -> None:
    wanted = "private key" if name == "key" else "certificate"
    found = _KEY.search(text) if name == "key" else CERTIFICATES.search(text)
    if found is None:
        hint = ""
        if text[:1] == b"\x30":
            command = "pkey" if name == "key" else "x509"
            hint = f"; it seems to be DER: convert it with `openssl {command} -inform DER`"
        elif name != "key" and _KEY.search(text):
            hint = "; it holds a private key: are certificate and key exchanged?"
        elif name == "key" and CERTIFICATES.search(text):
            hint = "; it holds a certificate: are certificate and key exchanged?"
        elif not text.strip():
            hint = "; it is empty"
        raise wrong(options, name, f"holds no {wanted} in PEM{hint}")
    if name == "key" and any(mark in text for mark in _ENCRYPTED):
        raise wrong(
            options,
            name,
            "is encrypted with a passphrase: decrypt it with `openssl pkey -in … -out …`",
        )
    if name != "key":
        certificates(options, name, text)


def trust(context: ssl.SSLContext, authorities: Sequence[str]) -> None:
    """Have `context` trust certificates in PEM. Raises ssl.SSLError and ValueError.

    OpenSSL reads a string of them in one go, with the GIL: so it gets a few at a time.
    """
    for first in range(0, len(authorities), AT_ONCE):
        some = "\n".join(authorities[first : first + AT_ONCE])
        context.load_verify_locations(cadata=some)


def certificates(options: TLSOptions, name: str, text: bytes) -> list[str]:
    """The certificates in `text`, each of which OpenSSL can read. Raises OptionError."""
    found = [one[0].decode("ascii", "replace") for one in CERTIFICATES.finditer(text)]
    try:
        trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), found)
    except (ssl.SSLError, ValueError) as error:
        why = error.reason if isinstance(error, ssl.SSLError) else None
        text_ = f" ({why.lower().replace('_', ' ')})" if why else ""
        raise wrong(options, name, f"holds a malformed certificate{text_}") from None
    return found


def system_authorities() -> bytes:
    """The authorities of OpenSSL's default file; empty where there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    found = context.get_ca_certs(binary_form=True)
    return "".join(ssl.DER_cert_to_PEM_cert(one) for one in found).encode()
