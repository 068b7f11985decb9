"""The command line. Runs are tested in test_service.py and end_to_end/."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from k8strace import __version__
from k8strace.gateway import main

CONFIG = (
    "yaml:{receivers: {otlp: {protocols: {grpc: }}}, processors: {batch: },"
    " exporters: {otlp: {endpoint: 'http://tempo:4317', headers: {authorization: secret}}},"
    " service: {pipelines: {traces: {receivers: [otlp], processors: [batch],"
    " exporters: [otlp]}}}}"
)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option, expected in (("--version", __version__), ("--help", "print-config")):
        with pytest.raises(SystemExit) as caught:
            main([option])
        assert caught.value.code == 0
        assert expected in capsys.readouterr().out


def test_components(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["components"]) == 0
    out = capsys.readouterr().out
    listed = yaml.safe_load(out.replace(" (= ", " #("))
    assert "otlp" in listed["receivers"]
    assert {"batch", "memory_limiter", "probabilistic_sampler"} <= set(listed["processors"])
    assert {"otlp", "otlp_grpc", "debug", "logging", "file", "nop"} <= set(
        listed["exporters"]
    )
    assert "logging (= debug)" in out


def test_validate_prints_the_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--config", CONFIG]) == 0
    assert "pipeline traces: in memory" in capsys.readouterr().out
    waiting = ["--set", "exporters.otlp.sending_queue.wait_for_result=true"]
    assert main(["--config", CONFIG, *waiting, "validate"]) == 0
    assert "pipeline traces: delivered" in capsys.readouterr().out


def test_validate_the_built_in_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate"]) == 0
    assert "pipeline traces" in capsys.readouterr().out


def test_print_config_hides_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["print-config", "--config", CONFIG]) == 0
    shown = capsys.readouterr().out
    assert "secret" not in shown
    parsed = yaml.safe_load(shown)
    assert parsed["processors"]["batch"]["send_batch_size"] == 8192
    assert parsed["exporters"]["otlp"]["headers"]["authorization"] == "[REDACTED]"
    assert main(["print-config", "--config", CONFIG, "--mode", "unredacted"]) == 0
    assert "secret" in capsys.readouterr().out


def test_the_number_of_workers(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["print-config", "--config", CONFIG]
    for arguments, expected in (
        ([], 1),
        (["--set", "service.workers=3"], 3),
        (["--set", "service.workers=3", "--workers", "2"], 2),
    ):
        assert main([*given, *arguments]) == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["service"]["workers"] == expected
    assert main([*given, "--workers", "257"]) == 1
    assert "--set service.workers: service::workers" in capsys.readouterr().err


def test_what_is_printed_is_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["print-config", "--config", CONFIG, "--mode", "unredacted"]) == 0
    printed = capsys.readouterr().out
    assert (
        main(["print-config", "--config", f"yaml:{printed}", "--mode", "unredacted"]) == 0
    )
    assert capsys.readouterr().out == printed


def test_mistakes_are_all_printed_and_nothing_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets = ["--set", "processors.batch.timeuot=1s", "--set", "exporters.otlp.timeout=x"]
    for command in ([], ["validate"], ["print-config"]):
        assert main([*command, "--config", CONFIG, *sets]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "did you mean timeout" in captured.err
        assert "exporters::otlp::timeout" in captured.err
        assert all(line.startswith("error: ") for line in captured.err.splitlines())


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["valdiate"])
    assert caught.value.code == 2
    assert "valdiate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["components", "--config", "x.yaml"], "--config does not apply to components"),
        (["validate", "--mode", "redacted"], "--mode does not apply to validate"),
        (["--format", "yaml"], "--format does not apply without a command"),
        (["print-config", "--shutdown-timeout", "5"], "does not apply to print-config"),
        (["components", "--workers", "2"], "--workers does not apply to components"),
        (["--workers", "0"], "must be a whole number from 1 on, not '0'"),
        (["validate", "--conf", "x.yaml"], "unrecognized arguments"),
        *((["--shutdown-timeout", text], text) for text in ("-1", "nan", "inf", "soon")),
    ],
)
def test_an_option_that_would_do_nothing_is_an_error(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("command", ["components", "validate", "print-config"])
def test_output_that_nobody_takes(command: str) -> None:
    def run(redirection: str) -> tuple[int, str]:
        line = f"{sys.executable} -m k8strace.gateway {command} {redirection}"
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    full = "error: cannot write to stdout: No space left on device\n"
    assert run(">/dev/full") == (1, full)
    assert run("| true") in ((0, ""), (1, ""))
    assert run(">&-") == (0, "")
