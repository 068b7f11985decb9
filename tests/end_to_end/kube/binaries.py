"""etcd and kube-apiserver, built with Go and kept outside the repository.

`python -m tests.end_to_end.kube.binaries` builds what is missing and prints the folder. Its
name has the versions and a hash of all that goes into the binaries, so that no change of it
meets what was built before.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
PROGRAMS = {"etcd": HERE / "etcd", "kube-apiserver": HERE / "apiserver"}
# The first is what the server says of itself, the second its client to itself.
VERSIONED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


class Binaries(NamedTuple):
    etcd: Path
    kube_apiserver: Path


def folder() -> Path:
    """Where the binaries belong; they need not be there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"kubernetes-{kubernetes_version()}-etcd-{etcd_version()}-{_inputs()}"
    return cache / "k8strace" / "kube" / name


def built() -> Binaries | None:
    """What was built before, of just these versions."""
    found = Binaries(*(folder() / name for name in PROGRAMS))
    return found if all(path.exists() for path in found) else None


def kubernetes_version() -> str:
    """As go.mod pins it: v1.36.3."""
    return _pinned(PROGRAMS["kube-apiserver"], "k8s.io/kubernetes")


def etcd_version() -> str:
    return _pinned(PROGRAMS["etcd"], "go.etcd.io/etcd/server/v3")


def build() -> Path:
    """Build what is missing; the first time takes minutes of CPU and 2 GB of Go's caches.

    Raises:
        FileNotFoundError: there is no Go.
        subprocess.CalledProcessError: Go could not build it, and said why on stderr.
    """
    go = os.environ.get("GO", shutil.which("go"))
    target = folder()
    for name, source in PROGRAMS.items():
        if (target / name).exists():
            continue
        if not go:
            raise FileNotFoundError("Install Go to build Kubernetes: https://go.dev/dl")
        sys.stderr.write(f"Building {name} into {target}\n")
        target.mkdir(parents=True, exist_ok=True)
        # A name of its own first: a build that is killed leaves no half a program behind.
        with tempfile.TemporaryDirectory(dir=target) as work:
            out = Path(work) / name
            command = [go, "build", "-trimpath", "-mod=readonly"]
            subprocess.run(
                [*command, "-ldflags", _linker_flags(name), "-o", str(out), "."],
                cwd=source,
                env={**os.environ, "CGO_ENABLED": "0"},
                check=True,
            )
            out.rename(target / name)
    return target


def _linker_flags(name: str) -> str:
    flags = ["-s", "-w"]
    if name == "kube-apiserver":
        version = kubernetes_version()
        _, minor, _ = version.split(".")
        values = {"gitVersion": version, "gitMajor": "1", "gitMinor": minor}
        for package in VERSIONED:
            for field, value in {**values, "gitTreeState": "clean"}.items():
                flags += ["-X", f"{package}.{field}={value}"]
    return " ".join(flags)


def _pinned(source: Path, module: str) -> str:
    text = (source / "go.mod").read_text()
    match = re.search(rf"^(?:require)?\s*{re.escape(module)} (\S+)$", text, re.MULTILINE)
    assert match is not None, f"{source}/go.mod doesn't require {module}"
    return match[1]


def _inputs() -> str:
    digest = hashlib.sha256()
    for name, source in PROGRAMS.items():
        digest.update(_linker_flags(name).encode())
        for file in ("go.mod", "go.sum", "main.go"):
            digest.update((source / file).read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{build()}\n")
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
