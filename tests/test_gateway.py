"""The command line. Running, signals and reloads are tested in end_to_end/."""

from __future__ import annotations

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
