"""Certificates for tests, made by the command openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
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


class Authority:
    """A certificate authority in `folder`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._count = 0
        self.cert = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        names = ("-subj", f"/CN={name}", "-days", "30")
        openssl("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.cert, *names)

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
        lines = ["basicConstraints=CA:FALSE", extension]
        if names:
            lines.append(f"subjectAltName={names}")
        extensions.write_text("\n".join(lines))
        authority = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial")
        days = ("-days", "-1" if expired else "30")
        openssl(
            *("x509", "-req", "-in", asked, "-out", pair.cert, "-extfile", extensions),
            *(*authority, *days),
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
