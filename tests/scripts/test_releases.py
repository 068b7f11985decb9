"""What of `make releases` can be tried without making a root directory."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from scripts.releases import (
    CHECKOUT,
    FAILED,
    NOT_TRIED,
    TOLD,
    NotTriedError,
    Outcome,
    Release,
    StepError,
    closing_lines,
    environment,
    quoted,
    report,
    spans_sent,
    what_failed,
)

PACKAGES = CHECKOUT / "scripts" / "system-packages"


def test_a_user_without_rights_is_told_a_command(tmp_path: Path) -> None:
    """With a compiler that finds no header, as an account that may not install."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"cc": "exit 1", "apt-get": "exit 0", "id": "echo 1000"}.items():
        tool = tools / name
        tool.write_text(f"#!/bin/sh\n{text}\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    path = f"{tools}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", str(PACKAGES)],
        env={**os.environ, "PATH": path, "CC": str(tools / "cc")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    told = TOLD.search(done.stderr)
    assert told is not None, done.stderr
    assert told[1] == "apt-get update && "
    assert told[2].startswith("apt-get install --yes ")
    assert "libnghttp2-dev" in told[2]


@pytest.mark.parametrize("text", ["a b", "it's", "$HOME `x`", "a\nb", "'"])
def test_quoting_for_the_shell(text: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"printf %s {quoted(text)}"], capture_output=True, check=True
    )
    assert done.stdout.decode() == text


def test_the_machines_own_settings_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("PIP_FIND_LINKS", "/outside")
    monkeypatch.setenv("PIP_INDEX_URL", "http://index")
    monkeypatch.setenv("https_proxy", "http://proxy")
    given = environment("user")
    assert given["HOME"] == "/home/user"
    assert given["PIP_INDEX_URL"] == "http://index"
    assert given["https_proxy"] == "http://proxy"
    assert not {"PYTHONPATH", "PIP_FIND_LINKS"} & set(given)


def test_closing_lines_are_pytests() -> None:
    output = "\n".join(
        [
            "...... [100%]",
            "===== 4,1 things =====",
            "============ 4543 passed, 2 skipped in 120.00s (0:02:00) =============",
            "==== 1 failed, 2 passed in 6.00s ====",
        ]
    )
    assert closing_lines(output) == [
        "4543 passed, 2 skipped in 2.0 min",
        "1 failed, 2 passed in 0.1 min",
    ]


def test_spans_that_came_through() -> None:
    scraped = (
        "# TYPE otelcol_exporter_sent_spans counter\n"
        'otelcol_exporter_sent_spans_total{exporter="debug"} 200.0\n'
        'otelcol_exporter_sent_spans_total{exporter="otlp"} 17.0\n'
        'otelcol_exporter_send_failed_spans_total{exporter="otlp"} 5.0\n'
    )
    assert spans_sent(scraped) == 217
    assert spans_sent("") == 0


@pytest.mark.parametrize(
    ("output", "is_built", "status"),
    [
        ("gcc: error\nmake: *** [Makefile:1: build] Error 1\n", False, FAILED),
        (
            "E: Failed to fetch http://mirror/gcc 503\nmake: Error 100\n",
            False,
            NOT_TRIED,
        ),
        ("W: Failed to fetch http://mirror/InRelease\ngcc: error\n", False, FAILED),
        ("WARNING: Retrying (Retry(total=4, connect=None\ngcc: error\n", False, FAILED),
        ("WARNING: Retrying (Retry(total=0, connect=None\nERROR: No\n", False, NOT_TRIED),
        ("E: Failed to fetch http://mirror/gcc.deb\n1 failed\n", True, FAILED),
    ],
)
def test_only_what_cannot_be_fetched_is_not_a_failure(
    output: str, is_built: bool, status: int
) -> None:
    assert what_failed(StepError("make build"), output, is_built=is_built) == status


def test_where_a_release_cannot_be_made_it_is_not_tried() -> None:
    assert what_failed(NotTriedError("debootstrap"), "", is_built=False) == NOT_TRIED


def test_the_report_has_a_row_for_each() -> None:
    good = Outcome("trixie", "root", "3.13.5 OpenSSL 3.5", "217 spans", ("9 passed",), 3, 0)
    bad = Outcome("bookworm", "user", "?", "failed", (), 1, 1)
    lines = report([good, bad]).splitlines()
    assert lines[2] == "| trixie | root | 3.13.5 OpenSSL 3.5 | 217 spans | 9 passed | 3 |"
    assert lines[3] == "| bookworm | user | ? | failed | not reached | 1 |"


def test_another_interpreter_has_a_root_of_its_own() -> None:
    assert Release("forky", "python3").name == "forky"
    assert Release("forky", "python3.14").name == "forky-python3.14"
