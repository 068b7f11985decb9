"""Certificates for tests, made by the command openssl."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
# What RFC 5280 demands of an authority and of its certificates, and Python's default
# contexts with it, from 3.13 on. The authorities of some clusters lack it.
_AUTHORITY = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
_ISSUED = ("subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid")
_BARE = ("subjectKeyIdentifier=none", "authorityKeyIdentifier=none")
LOCAL = "DNS:localhost,IP:127.0.0.1"


def openssl(*arguments: str | Path) -> None:
    """Run the command; a test that needs it is skipped where there is none."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl, which makes certificates, is not here")
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class Pair(NamedTuple):
    """A certificate and its key."""

    cert: Path
    key: Path

    @property
    def files(self) -> dict[str, Any]:
        """As options of `tls`."""
        return {"cert_file": str(self.cert), "key_file": str(self.key)}

    def copy_to(self, other: Pair) -> None:
        """Put it in the place of `other`, as Kubernetes does: by a new file."""
        for mine, its in zip(self, other, strict=True):
            new = its.with_suffix(".new")
            new.write_bytes(mine.read_bytes())
            new.rename(its)


@cache
def _expired() -> tuple[str, ...]:
    """Arguments that make a certificate which is over."""
    # Days below zero are an error from 3.5 on; dates are options from 3.4 on.
    version = subprocess.run(["openssl", "version"], capture_output=True, check=True).stdout
    if tuple(map(int, version.split()[1].split(b".")[:2])) < (3, 4):
        return ("-days", "-1")
    return ("-not_before", "20200101000000Z", "-not_after", "20200102000000Z")


class Authority:
    """A certificate authority in `folder`.

    One that is `bare`, and what it issues, lack the extensions that are not needed to tell
    who is who: key usage and key identifiers.
    """

    def __init__(
        self, folder: Path, name: str = "authority", *, bare: bool = False
    ) -> None:
        self._folder = folder
        self._identifiers = _BARE if bare else _ISSUED
        self._count = 0
        self.cert = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        names = ("-subj", f"/CN={name}", "-days", "30")
        made = ("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.cert)
        openssl(*made, *names, *(() if bare else _AUTHORITY))

    def issue(
        self,
        subject: str = "/CN=localhost",
        *,
        names: str = LOCAL,
        expired: bool = False,
        extension: str = "",
    ) -> Pair:
        """A certificate of this authority."""
        self._count += 1
        stem = self._folder / f"{self.cert.stem}-{self._count}"
        pair = Pair(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        asked, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        openssl("req", "-new", *_KEY, "-keyout", pair.key, "-out", asked, "-subj", subject)
        lines = ["basicConstraints=CA:FALSE", *self._identifiers, extension]
        if names:
            lines.append(f"subjectAltName={names}")
        extensions.write_text("\n".join(lines))
        authority = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial")
        days = _expired() if expired else ("-days", "30")
        openssl(
            *("x509", "-req", "-in", asked, "-out", pair.cert, "-extfile", extensions),
            *authority,
            *days,
        )
        return pair


def self_signed(folder: Path, subject: str = "/CN=localhost") -> Pair:
    """A certificate that nobody vouches for."""
    pair = Pair(folder / "own.pem", folder / "own.key")
    openssl(
        *("req", "-x509", *_KEY, "-keyout", pair.key, "-out", pair.cert),
        *("-subj", subject, "-addext", f"subjectAltName={LOCAL}", "-days", "30"),
    )
    return pair
