"""The options of `tls`, the collector's `configtls`: those of servers and of clients."""

from __future__ import annotations

from typing import Annotated, Literal

from k8strace.component import NO_EFFECT, Config
from k8strace.secret import Secret
from k8strace.tls.suites import openssl_names
from k8strace.units import Duration

Version = Literal["1.0", "1.1", "1.2", "1.3", ""]
GRPCIO_MIN, GRPCIO_MAX = ("", "1.2"), ("", "1.3")  # gRPC's core has these, and only these


class TPM(Config, frozen=True, kw_only=True):
    """`tpm`: keys in a trusted platform module, which Python's ssl has no way to."""

    enabled: bool = False
    path: Annotated[str, NO_EFFECT] = ""
    owner_auth: Annotated[Secret, NO_EFFECT] = Secret()
    auth: Annotated[Secret, NO_EFFECT] = Secret()

    def __post_init__(self) -> None:
        if self.enabled:
            raise ValueError(
                "`enabled`: keys in a TPM are not available: give the key in `key_file`"
            )


class TLSOptions(Config, frozen=True, kw_only=True):
    """What servers and clients have in common. `reload_interval` 0 never reloads."""

    cert_file: str = ""
    cert_pem: Secret = Secret()
    key_file: str = ""
    key_pem: Secret = Secret()
    include_system_ca_certs_pool: bool = False
    min_version: Version = "1.2"
    max_version: Version = ""
    cipher_suites: tuple[str, ...] = ()
    include_insecure_cipher_suites: bool = False
    curve_preferences: tuple[str, ...] = ()
    reload_interval: Duration = Duration(0)
    tpm: TPM = TPM()

    def __post_init__(self) -> None:
        for name in ("ca", "cert", "key"):
            if getattr(self, f"{name}_file") and getattr(self, f"{name}_pem"):
                raise ValueError(f"give either `{name}_file` or `{name}_pem`, not both")
        if self.has_cert != bool(self.key_file or self.key_pem):
            given, missing = ("cert", "key") if self.has_cert else ("key", "cert")
            option = f"{given}_file" if getattr(self, f"{given}_file") else f"{given}_pem"
            raise ValueError(
                f"`{option}` needs `{missing}_file` or `{missing}_pem` beside it"
            )
        if self.max_version and self.max_version < self.lowest:
            raise ValueError(
                f"`max_version` {self.max_version} is below `min_version` {self.lowest}"
            )
        if self.curve_preferences:
            raise ValueError(
                "`curve_preferences` is not available: Python's ssl cannot choose curves; "
                "leave it out to have OpenSSL's, which are X25519, P-256, P-384 and P-521"
            )
        if self.reload_interval < 0:
            raise ValueError(
                f"`reload_interval` must not be negative: {self.reload_interval}"
            )
        ciphers = self.ciphers()
        if self.cipher_suites and not ciphers and self.max_version not in ("", "1.3"):
            raise ValueError(
                f"`cipher_suites` has only suites of TLS 1.3, `max_version` is "
                f"{self.max_version}"
            )

    @property
    def lowest(self) -> str:
        """The lowest version, which is 1.2 where nothing is said."""
        return self.min_version or "1.2"

    @property
    def has_cert(self) -> bool:
        return bool(self.cert_file or self.cert_pem)

    def ciphers(self) -> list[str]:
        """OpenSSL's names of `cipher_suites` below TLS 1.3. Raises ValueError."""
        return openssl_names(
            self.cipher_suites, with_insecure=self.include_insecure_cipher_suites
        )

    def needs_native(self) -> list[str]:
        """The options given that gRPC's own library has no way to."""
        found = []
        if self.min_version not in GRPCIO_MIN:
            found.append("min_version")
        if self.max_version not in GRPCIO_MAX:
            found.append("max_version")
        if self.cipher_suites:
            found.append("cipher_suites")
        return found


class ServerTLS(TLSOptions, frozen=True, kw_only=True):
    """`tls` of a receiver. Whom `client_ca_file` doesn't vouch for is refused."""

    client_ca_file: str = ""
    client_ca_file_reload: bool = False
    ca_file: Annotated[str, NO_EFFECT] = ""
    ca_pem: Annotated[Secret, NO_EFFECT] = Secret()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.has_cert:
            raise ValueError(
                "a server needs a certificate and its key: give `cert_file` and `key_file`"
            )
        if self.client_ca_file_reload and not self.client_ca_file:
            raise ValueError("`client_ca_file_reload` needs `client_ca_file`")


class ClientTLS(TLSOptions, frozen=True, kw_only=True):
    """`tls` of an exporter. Where no authority is given the system's are trusted."""

    insecure: bool = False
    insecure_skip_verify: bool = False
    server_name_override: str = ""
    ca_file: str = ""
    ca_pem: Secret = Secret()

    @property
    def has_ca(self) -> bool:
        return bool(self.ca_file or self.ca_pem)

    def without_effect(self) -> list[str]:
        """The options given that mean nothing where the connection is plaintext."""
        names = ("cert_file", "cert_pem", "server_name_override", "insecure_skip_verify")
        return [name for name in names if getattr(self, name)]

    def needs_native(self) -> list[str]:
        found = super().needs_native()
        if self.insecure_skip_verify:
            found.append("insecure_skip_verify")
        if self.reload_interval:
            found.append("reload_interval")
        return found
