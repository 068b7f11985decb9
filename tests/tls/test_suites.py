"""Cipher suites by Go's names."""

from __future__ import annotations

import ssl

import pytest

from k8strace.tls.suites import ALWAYS, INSECURE, SECURE, openssl_names


def test_every_secure_suite_is_openssls() -> None:
    """By their numbers, which both have from the same registry."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    known = {one["name"] for one in context.get_ciphers()}
    assert set(SECURE.values()) <= known
    assert openssl_names([*ALWAYS, *SECURE], with_insecure=False) == list(SECURE.values())


def test_insecure_ones_have_to_be_allowed() -> None:
    name = "TLS_RSA_WITH_AES_128_GCM_SHA256"
    assert openssl_names([name], with_insecure=True) == ["AES128-GCM-SHA256"]
    with pytest.raises(ValueError, match=f"{name} is insecure"):
        openssl_names([name], with_insecure=False)
    assert not set(SECURE) & set(INSECURE)


def test_what_openssl_was_built_without_is_named() -> None:
    with pytest.raises(ValueError, match="built without TLS_RSA_WITH_RC4_128_SHA"):
        openssl_names(["TLS_RSA_WITH_RC4_128_SHA"], with_insecure=True)


def test_what_nobody_knows_has_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean TLS_AES_128_GCM_SHA256"):
        openssl_names(["TLS_AES_128_GCM_SHA25"], with_insecure=True)
