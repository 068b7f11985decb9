"""The gateway's own log and metrics."""

from __future__ import annotations

import json
import logging

import aiohttp
import pytest

from k8strace import __version__
from k8strace.component import Worker
from k8strace.config import load
from k8strace.log_queue import queue
from k8strace.metrics import RETRIES, Metrics
from k8strace.telemetry import MAX_TEXT, MetricsServer, bind_process, set_up_logs

BASE = (
    "{receivers: {otlp: {protocols: {grpc: }}}, exporters: {nop: },"
    " service: {pipelines: {traces: {receivers: [otlp], exporters: [nop]}}, telemetry: %s}}"
)
READER = (
    "{metrics: {readers: [{pull: {exporter: {prometheus:"
    " {host: 127.0.0.1, port: 0%s}}}}]}%s}"
)


def telemetry(text: str):  # type: ignore[no-untyped-def]
    return load([f"yaml:{BASE % text}"]).config.service.telemetry


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """What is on stderr when all of it is written."""
    assert queue.flush()
    return capfd.readouterr().err


def test_console_and_json(capfd: pytest.CaptureFixture[str]) -> None:
    adapter = logging.LoggerAdapter(logging.getLogger("k8strace"), {"component": "batch"})
    set_up_logs(telemetry("{logs: {level: warn}}").logs)
    adapter.info("not shown")
    adapter.warning("%d spans", 3)
    line = said(capfd)
    assert line.endswith("Z warn  3 spans component=batch\n")
    assert line.count("\n") == 1
    set_up_logs(telemetry("{logs: {level: debug, encoding: json}}").logs)
    adapter.error("failed", exc_info=OSError("x"))
    entry = json.loads(said(capfd))
    assert (entry["level"], entry["msg"], entry["component"]) == (
        "error",
        "failed",
        "batch",
    )
    assert "OSError: x" in entry["stacktrace"]


def test_fields_that_come_from_outside(capfd: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("k8strace")
    fields = {"reason": "queue_full", "spans": 3, "peer": "10.0.0.1:1"}
    fields["service"] = 'x" worker=7\n2026 error \u2028'
    set_up_logs(telemetry("{}").logs)
    log.warning("dropped spans", extra=fields)
    line = said(capfd)
    assert line.count("\n") == 1
    assert line.endswith(
        "dropped spans reason=queue_full spans=3 peer=10.0.0.1:1 "
        'service="x\\" worker=7\\n2026 error \\u2028"\n'
    )
    set_up_logs(telemetry("{logs: {encoding: json}}").logs)
    log.warning("dropped spans", extra=fields)
    entry = json.loads(said(capfd))
    assert {name: entry[name] for name in fields} == fields


def test_lines_of_workers_say_which(capfd: pytest.CaptureFixture[str]) -> None:
    adapter = logging.LoggerAdapter(logging.getLogger("k8strace"), {"component": "batch"})
    set_up_logs(telemetry("{}").logs, Worker(slot=0))
    adapter.info("it")
    assert said(capfd).endswith("it component=batch worker=0\n")
    set_up_logs(telemetry("{logs: {encoding: json}}").logs, Worker(slot=1))
    adapter.info("it")
    assert json.loads(said(capfd))["worker"] == 1


def test_texts_of_peers_are_cut(capfd: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("k8strace")
    long = "a" * 3 * MAX_TEXT + "z"
    for encoding in ("console", "json"):
        set_up_logs(telemetry(f"{{logs: {{encoding: {encoding}}}}}").logs)
        log.warning("%s", long, extra={"peer": long}, exc_info=ValueError(long))
        text = said(capfd)
        assert 3 * MAX_TEXT < len(text) < 4 * MAX_TEXT
        assert f"a [{2 * MAX_TEXT + 1} characters] a" in text
        if encoding == "json":
            assert json.loads(text)["peer"].endswith("z")


async def scrape(config: str, accept: str = "text/plain") -> str:
    metrics = Metrics()
    metrics.counter(RETRIES, "otlp").add(1)
    bind_process(metrics)
    server = MetricsServer(metrics, telemetry(config))
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            headers = {"Accept": accept}
            url = f"http://{server.address}/metrics"
            async with session.get(url, headers=headers) as response:
                assert response.status == 200
                assert response.headers["Content-Type"].startswith("text/plain")
                return await response.text()
    finally:
        await server.stop()


async def test_metrics_carry_the_resource() -> None:
    text = await scrape(
        READER % ("", ", resource: {service.instance.id: gw-1, k8s.cluster.name: prod}")
    )
    labels = (
        'exporter="otlp",k8s_cluster_name="prod",service_instance_id="gw-1",'
        f'service_name="k8strace",service_version="{__version__}"'
    )
    assert f"k8strace_exporter_retries_total{{{labels}}} 1.0" in text
    assert "otelcol_process_uptime_seconds_total{" in text
    assert "otelcol_process_memory_rss_bytes{" in text
    assert "otelcol_process_cpu_seconds_total{" in text
    assert "target_info{" in text


async def test_constant_labels_can_be_chosen() -> None:
    text = await scrape(
        READER % (", with_resource_constant_labels: {included: [service.name]}", "")
    )
    assert (
        'k8strace_exporter_retries_total{exporter="otlp",service_name="k8strace"} 1.0'
        in text
    )


async def test_a_label_of_a_series_wins_over_the_resource() -> None:
    text = await scrape(READER % ("", ", resource: {exporter: mine, le: mine}"))
    assert 'k8strace_exporter_retries_total{exporter="otlp",service_instance' in text
    assert 'otelcol_process_uptime_seconds_total{exporter="mine"' in text
    assert "target_info{exporter=" in text


OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
NO_LABELS = ", with_resource_constant_labels: {included: [none]}"


async def test_names_without_type_suffix() -> None:
    """As text, whatever the scraper prefers: OpenMetrics demands the suffix."""
    options = NO_LABELS + ", without_type_suffix: true"
    for accept in ("text/plain", OPEN_METRICS):
        text = await scrape(READER % (options, ""), accept)
        assert 'k8strace_exporter_retries{exporter="otlp"} 1.0\n' in text
        assert "# TYPE k8strace_exporter_retries counter\n" in text
        assert "# HELP k8strace_exporter_retries Sends" in text
        assert "\notelcol_process_uptime_seconds " in text
        assert "_total" not in text


async def test_names_without_units() -> None:
    text = await scrape(READER % (NO_LABELS + ", without_units: true", ""))
    assert "\notelcol_process_uptime_total " in text
    assert "\notelcol_process_memory_rss " in text
    assert "\notelcol_process_cpu_seconds_total " in text  # the collector's own name
    options = NO_LABELS + ", without_units: true, without_type_suffix: true"
    assert "\notelcol_process_uptime " in await scrape(READER % (options, ""))


async def test_scope_info() -> None:
    text = await scrape(READER % (NO_LABELS + ", without_scope_info: false", ""))
    scope = f'otel_scope_name="k8strace",otel_scope_version="{__version__}"'
    assert f'k8strace_exporter_retries_total{{exporter="otlp",{scope}}} 1.0' in text
    assert f"otelcol_process_uptime_seconds_total{{{scope}}}" in text
    assert "otel_scope" not in await scrape(READER % (NO_LABELS, ""))


async def test_level_none_serves_nothing() -> None:
    server = MetricsServer(Metrics(), telemetry("{metrics: {level: none}}"))
    await server.start()
    assert server.address == ""
    await server.stop()


def test_no_text_looks_like_a_record(capfd: pytest.CaptureFixture[str]) -> None:
    set_up_logs(telemetry("{}").logs)
    logging.getLogger("k8strace").warning(
        "%s", "a\n2026-11-30T00:00:00.000Z error all is lost"
    )
    first, second = said(capfd).splitlines()
    assert first.endswith("warn  a")
    assert second == "  2026-11-30T00:00:00.000Z error all is lost"


@pytest.mark.parametrize("encoding", ["console", "json"])
def test_a_log_has_no_controls(capfd: pytest.CaptureFixture[str], encoding: str) -> None:
    """Terminal escapes, text that runs backwards, what UTF-8 cannot have."""
    set_up_logs(telemetry(f"{{logs: {{encoding: {encoding}}}}}").logs)
    hostile = "\x1b[2J\x9b\u202e\ud800\r"
    logging.getLogger("k8strace").warning("%s", hostile, extra={"peer": hostile})
    line = said(capfd)
    assert line.rstrip("\n").isprintable()
    assert line.count("\n") == 1
    assert "\\u202e" in line
