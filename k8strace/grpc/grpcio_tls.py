"""TLS as gRPC's own library takes it."""

from __future__ import annotations

from typing import Any

import grpc

from k8strace.errors import ConfigError
from k8strace.tls.contexts import Contexts
from k8strace.tls.material import system_authorities
from k8strace.tls.options import TLSOptions


def contexts(tls: TLSOptions) -> Contexts:
    """Raises ConfigError for options that core has no way to."""
    if names := tls.needs_native():
        options = ", ".join(f"`{name}`" for name in names)
        raise ConfigError([f"tls: {options}: engine grpcio can't: set `engine: native`"])
    return Contexts(tls)


def channel_credentials(contexts: Contexts) -> grpc.ChannelCredentials:
    """Raises OptionError for files that are none."""
    contexts.read()
    material, tls = contexts.material, contexts.options
    authorities = material.ca
    # Without any core would take those that it brings along.
    if not authorities or tls.include_system_ca_certs_pool:
        authorities += b"\n" + system_authorities()
    return grpc.ssl_channel_credentials(
        authorities.strip() or None, material.key or None, material.cert or None
    )


def server_credentials(contexts: Contexts) -> grpc.ServerCredentials:
    """Credentials that are asked for anew at each handshake where files may change.

    Core asks on a thread of its own. Raises OptionError for files that are none.
    """
    contexts.read()
    known = contexts.material

    def content() -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        authorities = known.client_ca
        if authorities and contexts.options.include_system_ca_certs_pool:
            authorities += b"\n" + system_authorities()
        return [(known.key, known.cert)], authorities or None

    if not contexts.may_change:
        return grpc.ssl_server_credentials(*content(), bool(known.client_ca))

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal known
        contexts.current()
        if contexts.material == known:
            return None
        known = contexts.material
        return grpc.ssl_server_certificate_configuration(*content())

    first = grpc.ssl_server_certificate_configuration(*content())
    fetcher: Any = changed
    return grpc.dynamic_ssl_server_credentials(first, fetcher, bool(known.client_ca))


def subject_of_call(context: Any) -> str | None:
    """Whom the client's certificate names, which was verified."""
    found = context.auth_context()
    for key in ("x509_subject", "x509_subject_alternative_name"):
        for value in found.get(key, ()):
            return str(value.decode("utf-8", "replace"))
    return None
