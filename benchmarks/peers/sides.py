"""The sides that are compared: what each is, which version, and how it is started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import yaml

import k8strace
from benchmarks.peers import configs
from benchmarks.peers.configs import Places
from benchmarks.peers.matrix import Cell

US = "k8strace"
BUILD = Path(".venv/peers")

# What each calls the spans that it took, and those that its batches hold, in /metrics.
ACCEPTED = "otelcol_receiver_accepted_spans"
BATCHED = "otelcol_processor_batch_batch_send_size_sum"

Command = Callable[[Cell, Places, Path], "list[str] | None"]


class Kind(msgspec.Struct, frozen=True):
    """A side. `version` identifies what runs: results of another one are not its own.

    `command` writes its configuration into a folder, and is None for what it can't do.
    """

    name: str
    title: str
    version: str
    command: Command
    has_metrics: bool


class Missing(msgspec.Struct, frozen=True):
    """A side that is not here, and what would bring it."""

    name: str
    title: str
    why: str


def available(environment: Mapping[str, str]) -> list[Kind | Missing]:
    """All sides, ours first, then the Collector."""
    return [
        _k8strace(),
        _binary(
            "collector",
            "OpenTelemetry Collector",
            environment.get("COLLECTOR") or _built("collector"),
            "build it with: make peers",
            lambda path: _by_file(path, configs.collector, "--config"),
            has_metrics=True,
        ),
        _binary(
            "rotel",
            "Rotel",
            environment.get("ROTEL") or _built("rotel"),
            "name its binary: ROTEL=/path, or get a pre-release: make peers-rotel",
            _rotel,
        ),
        _binary(
            "df_engine",
            "otel-arrow Dataflow Engine",
            environment.get("DF_ENGINE") or "df_engine",
            "name its binary: DF_ENGINE=/path",
            lambda path: _by_file(path, configs.df_engine, "--config"),
        ),
    ]


def _built(name: str) -> str:
    """What make has built here, else what stands on PATH."""
    path = BUILD / name
    return str(path) if path.exists() else name


def _k8strace() -> Kind:
    folder = Path(k8strace.__file__).parent
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".so", ".yaml"):
            digest.update(path.read_bytes())
    command = [sys.executable, "-m", "k8strace.gateway"]
    make = _by_file(command, configs.collector, "--config")
    version = f"{k8strace.__version__} ({digest.hexdigest()[:12]})"
    return Kind(US, US, version, make, has_metrics=True)


def _binary(
    name: str,
    title: str,
    program: str,
    how: str,
    command: Callable[[list[str]], Command],
    *,
    has_metrics: bool = False,
) -> Kind | Missing:
    path = shutil.which(program)
    if path is None:
        return Missing(name, title, f"{program} is not here; {how}")
    done = subprocess.run(
        [path, "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    said = (done.stdout or done.stderr).strip().splitlines()
    version = said[0].split()[-1] if done.returncode == 0 and said else "unknown"
    return Kind(name, title, version, command([os.path.realpath(path)]), has_metrics)


def _by_file(
    program: list[str],
    make: Callable[[Cell, Places], dict[str, Any] | None],
    flag: str,
) -> Command:
    def command(cell: Cell, places: Places, folder: Path) -> list[str] | None:
        config = make(cell, places)
        if config is None:
            return None
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return [*program, flag, str(path)]

    return command


def _rotel(program: list[str]) -> Command:
    def command(cell: Cell, places: Places, folder: Path) -> list[str] | None:
        arguments = configs.rotel(cell, places)
        if arguments is None:
            return None
        (folder / "arguments.json").write_text(json.dumps(arguments))
        return [*program, *arguments]

    return command
