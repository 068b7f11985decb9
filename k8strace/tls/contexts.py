"""Contexts of OpenSSL made of `tls`, which follow the files that they are made of.

Files are read when a handshake begins and it is time to look at them; connections that
are there go on as they are. What cannot be used is logged, and what was there before
stays. A file whose mount doesn't answer holds up no handshake.
"""

from __future__ import annotations

import logging
import os
import ssl
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from math import inf
from time import monotonic

from k8strace.background import in_thread
from k8strace.errors import OptionError
from k8strace.tls.handshake import inspect
from k8strace.tls.material import (
    CERTIFICATES,
    Material,
    certificates,
    sources,
    trust,
    wrong,
)
from k8strace.tls.options import ClientTLS, ServerTLS, TLSOptions

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds between two looks whether `client_ca_file` has changed
LOG_EVERY = 60.0  # seconds between two log lines of the same failure to reload
VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


class Contexts:
    """The context of now for `options`; `protocols` are those of ALPN.

    `material` is what it is made of now. Nothing is read before `load`.
    """

    def __init__(self, options: TLSOptions, protocols: Sequence[str] = ()) -> None:
        self.material = Material()
        self.options = options
        self._protocols = list(protocols)
        self._context: ssl.SSLContext | None = None
        self._sources = sources(options)
        self._reload_at = self._look_at = self._due = inf
        self._logged: tuple[str, float] = ("", -inf)

    async def load(self) -> None:
        """Read the files, on a thread. Raises OptionError that names what is wrong.

        They may hang, and a bundle of some MiB takes OpenSSL a tenth of a second.
        """
        await in_thread(self.read)

    def read(self) -> None:
        """`load`, here and now."""
        found = {name: one.read() for name, one in self._sources.items()}
        material = Material(**found)
        self._use(material, build(self.options, material, self._protocols))
        now = monotonic()
        if self.options.reload_interval:
            self._reload_at = now + self.options.reload_interval
        if isinstance(self.options, ServerTLS) and self.options.client_ca_file_reload:
            self._look_at = now + LOOK_EVERY
        self._due = min(self._reload_at, self._look_at)

    @property
    def may_change(self) -> bool:
        """Whether files are looked at again, once they are loaded."""
        return self._due < inf

    def current(self) -> ssl.SSLContext:
        """The context for a handshake that begins now."""
        if self._context is None:
            self.read()
        elif (now := monotonic()) >= self._due:
            self._look(now)
        assert self._context is not None
        return self._context

    def _look(self, now: float) -> None:
        if now >= self._reload_at:
            is_whole = self._renew(("ca", "cert", "key"), now)
            pause = self.options.reload_interval
            self._reload_at = now + (pause if is_whole else min(pause, LOOK_EVERY))
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._renew(("client_ca",), now)
        self._due = min(self._reload_at, self._look_at)

    def _renew(self, names: Sequence[str], now: float) -> bool:
        """Use what these files have now; returns whether all of them have answered."""
        options = self.options
        looked_at = {name: self._sources[name] for name in names if name in self._sources}
        try:
            found = {name: one.look() for name, one in looked_at.items()}
            if any(one.is_waiting for one in looked_at.values()):
                return False
            material = self.material._replace(**found)
            if material == self.material:
                return True
            context = build(options, material, self._protocols)
        except OptionError as error:
            said, at = self._logged
            if str(error) != said or now - at >= LOG_EVERY:
                self._logged = (str(error), now)
                log.error("tls: %s; what was read before is used on", error)  # noqa: TRY400
            return not any(one.is_waiting for one in looked_at.values())
        self._logged = ("", -inf)
        self._use(material, context)
        changed = [name for name in names if getattr(options, f"{name}_file", "")]
        paths = ", ".join(getattr(options, f"{name}_file") for name in changed)
        log.info("tls: new handshakes use what is in %s now", paths)
        return True

    def _use(self, material: Material, context: ssl.SSLContext) -> None:
        if material.cert and material.cert != self.material.cert:
            _report(self.options, material)
        self.material, self._context = material, context


def build(
    options: TLSOptions, material: Material, protocols: Sequence[str] = ()
) -> ssl.SSLContext:
    """A context of `material`. Raises OptionError."""
    is_server = isinstance(options, ServerTLS)
    side = ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT
    context = ssl.SSLContext(side)
    _limit(context, options)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if material.cert:
        _load_chain(context, options, material)
    if isinstance(options, ClientTLS) and options.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    authorities = "client_ca" if is_server else "ca"
    trusted = material.client_ca if is_server else material.ca
    if trusted:
        # As in the collector what is given is trusted as it stands, with or without the
        # authority that it is from.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        trust(context, certificates(options, authorities, trusted))
    if is_server and trusted:
        context.verify_mode = ssl.CERT_REQUIRED
    if options.include_system_ca_certs_pool or not (trusted or is_server):
        context.load_default_certs(
            ssl.Purpose.CLIENT_AUTH if is_server else ssl.Purpose.SERVER_AUTH
        )
    return context


def client_context(authorities: str = "") -> ssl.SSLContext:
    """A context for an HTTPS client that trusts `authorities` (PEM), or the system's.

    It verifies as Go's programs do, on every Python: `ssl.create_default_context` sets
    VERIFY_X509_STRICT from Python 3.13 on, which refuses authorities without the extensions
    of RFC 5280 (key usage, authority key identifier); those of some clusters lack them.
    Raises ssl.SSLError if there is no certificate in `authorities`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=authorities)
    else:
        context.load_default_certs()
    return context


def _limit(context: ssl.SSLContext, options: TLSOptions) -> None:
    """Set versions and cipher suites."""
    lowest = options.lowest
    ciphers = options.ciphers()
    if options.cipher_suites and not ciphers:
        lowest = "1.3"
    is_old = lowest < "1.2"
    # Python advises against old versions, and its filters are those of all threads.
    with warnings.catch_warnings() if is_old else nullcontext():
        if is_old:
            warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = VERSIONS[lowest]
        if options.max_version:
            context.maximum_version = VERSIONS[options.max_version]
    # OpenSSL does TLS 1.0 and 1.1 at its lowest level only: their hash is SHA-1.
    level = ":@SECLEVEL=0" if is_old else ""
    if ciphers or level:
        context.set_ciphers(":".join(ciphers or ["DEFAULT"]) + level)


def _load_chain(context: ssl.SSLContext, options: TLSOptions, material: Material) -> None:
    # OpenSSL reads a chain from files only: this one is in memory.
    cert, key = os.memfd_create("certificate"), os.memfd_create("key")
    try:
        _write(cert, material.cert)
        _write(key, material.key)
        # Without a password OpenSSL would ask the terminal for one.
        context.load_cert_chain(
            f"/proc/self/fd/{cert}", f"/proc/self/fd/{key}", password=lambda: b""
        )
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            where = options.cert_file or "cert_pem"
            text = f"is not the key of the certificate in {where}"
            raise wrong(options, "key", text) from None
        if error.reason:
            text = f"is not taken: {error.reason.lower().replace('_', ' ')}"
            raise wrong(options, "cert", text) from None
        # The certificates are known to be right.
        raise wrong(options, "key", "holds a malformed private key") from None
    finally:
        os.close(cert)
        os.close(key)


def _write(file: int, data: bytes) -> None:
    with open(file, "wb", closefd=False) as stream:
        stream.write(data)


def _report(options: TLSOptions, material: Material) -> None:
    """Say whose our certificate is, and why others will refuse it."""
    leaf = CERTIFICATES.search(material.cert)
    assert leaf is not None
    of_server = isinstance(options, ServerTLS)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if of_server:
        _limit(server, options)
        client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        client.set_ciphers("ALL:@SECLEVEL=0")
    else:
        _load_chain(client, options, material)
    _load_chain(server, options, material)
    found = inspect(server, client, leaf[0].decode("ascii", "replace"), of_server=of_server)
    where = options.cert_file or "cert_pem"
    for problem in found.problems:
        log.warning("tls: the certificate in %s %s", where, problem)
    if not found.problems:
        log.info("tls: the certificate in %s is of %s until %s", where, *found[:2])
