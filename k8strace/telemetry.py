"""What the gateway says of itself: its log, and its metrics for Prometheus."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import partial

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import InfoMetricFamily, Metric

from k8strace import __version__
from k8strace._http1 import Request
from k8strace.background import in_thread
from k8strace.component import Worker
from k8strace.config import Logs, Prometheus, Telemetry
from k8strace.lines import without_controls
from k8strace.log_queue import LogHandler, queue
from k8strace.memory import resident_memory
from k8strace.metrics import (
    LOG_RECORDS_DROPPED,
    PROCESS_CPU,
    PROCESS_RSS,
    PROCESS_UPTIME,
    Metrics,
)
from k8strace.net.http_server import HTTPServer
from k8strace.net.messages import Response

_INSTANCE = str(uuid.uuid4())  # of this process: a reload must not begin new series
_FIELDS = (
    *("component", "pipeline", "reason", "spans", "requests", "times", "peer", "service"),
    "worker",
)
_LEVELS = {"WARNING": "warn"}  # the collector's names are these in small letters, and warn
_STARTED = time.monotonic()
MAX_TEXT = 16 * 1024  # characters of a message, of a field, of a traceback


class _Console(logging.Formatter):
    """One line: time, level, message, where."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        where = "".join(
            f" {name}={_plain(value)}"
            for name in _FIELDS
            if (value := record.__dict__.get(name)) not in (None, "")
        )
        line = (
            f"{stamp}.{int(record.msecs):03d}Z {_level(record):<5} "
            f"{_indented(without_controls(_cut(record.getMessage())))}{where}"
        )
        if record.exc_info:
            line += "\n" + without_controls(_cut(self.formatException(record.exc_info)))
        return line


def _indented(text: str) -> str:
    """The text with its other lines indented: none of them looks like a record."""
    return text.replace("\n", "\n  ")


def _cut(text: str) -> str:
    """The text without what is over `MAX_TEXT`: peers have a say in how long it is."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters] {text[-half:]}"


def _plain(value: object) -> str:
    """A field's value as it stands where nobody can take it for two, else in quotes."""
    text = _cut(str(value))
    if text.isprintable() and not any(c in text for c in ' "='):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _level(record: logging.LogRecord) -> str:
    return _LEVELS.get(record.levelname, record.levelname.lower())


class _JSON(logging.Formatter):
    """One JSON object a line, with the collector's keys."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "level": _level(record),
            "ts": round(record.created, 3),
            "msg": _cut(record.getMessage()),
        }
        for name in _FIELDS:
            if name in record.__dict__:
                value = record.__dict__[name]
                entry[name] = _cut(value) if isinstance(value, str) else value
        if record.exc_info:
            entry["stacktrace"] = _cut(self.formatException(record.exc_info))
        line = json.dumps(entry, ensure_ascii=False)
        return line if line.isprintable() else json.dumps(entry)


def set_up_logs(config: Logs, worker: Worker | None = None) -> None:
    """Send the gateway's log to stderr, as `service.telemetry.logs` says.

    Of a worker of several, lines say which.
    """
    handler = LogHandler(queue)
    if worker is not None:
        handler.addFilter(partial(_mark, worker.slot))
    handler.setFormatter(_JSON() if config.encoding == "json" else _Console())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("k8strace").setLevel(config.level.upper())


def _mark(slot: int, record: logging.LogRecord) -> bool:
    record.worker = slot
    return True


def resource_attributes(config: Telemetry) -> dict[str, str]:
    """The gateway's own resource: the configured attributes over the built-in ones."""
    attributes = {
        "service.name": "k8strace",
        "service.version": __version__,
        "service.instance.id": _INSTANCE,
    }
    attributes |= config.resource_attributes
    return {k: v for k, v in attributes.items() if k not in config.suppressed_attributes}


def bind_process(metrics: Metrics, *, is_worker: bool = False) -> None:
    """Register the series about the process; again after a reload.

    A worker's CPU and memory are added to its supervisor's; the uptime is that one's.
    """
    if not is_worker:
        metrics.counter_reading(PROCESS_UPTIME, lambda: time.monotonic() - _STARTED)
    metrics.counter_reading(PROCESS_CPU, time.process_time)
    metrics.counter_reading(LOG_RECORDS_DROPPED, lambda: queue.dropped)
    metrics.gauge(PROCESS_RSS, resident_memory)


_SCOPE = {"otel_scope_name": "k8strace", "otel_scope_version": __version__}
_TYPE_SUFFIX = re.compile(
    rb"^((?:# (?:HELP|TYPE) )?[a-zA-Z0-9_]+)_total(?=[ {])", re.MULTILINE
)


class _TargetInfo:
    """The resource as Prometheus wants it: the labels of `target_info`."""

    def __init__(self, attributes: Mapping[str, str]) -> None:
        self._labels = {_label(key): value for key, value in attributes.items()}

    def collect(self) -> list[Metric]:
        return [InfoMetricFamily("target", "Target metadata", value=self._labels)]


class _Read:
    """What was read already."""

    def __init__(self, families: Iterator[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families


class MetricsServer:
    """Serves /metrics as `service.telemetry.metrics` says; nothing at level none."""

    def __init__(self, metrics: Metrics, config: Telemetry) -> None:
        self._config: Prometheus | None = config.prometheus
        attributes = resource_attributes(config)
        if self._config is not None:
            metrics.constant_labels = {
                _label(key): value
                for key, value in attributes.items()
                if self._config.has_constant_label(key)
            }
            if not self._config.without_scope_info:
                metrics.constant_labels |= _SCOPE
            metrics.without_units = self._config.without_units
        self._metrics = metrics
        self._target = _TargetInfo(attributes)
        self._server = HTTPServer({"/metrics": self._scrape})

    @property
    def address(self) -> str:
        """The address as bound; empty where nothing listens."""
        return self._server.address

    async def start(self) -> None:
        """Listen; raises OSError that names the address."""
        if self._config is not None:
            await self._server.start(self._config.host, self._config.port)

    async def stop(self) -> None:
        await self._server.stop()

    async def _scrape(self, request: Request) -> Response:
        is_plain = self._config is not None and self._config.without_type_suffix
        # OpenMetrics has no counters without the suffix.
        accept = b"" if is_plain else request.get(b"accept") or b""
        encode, content_type = choose_encoder(accept.decode("latin-1"))
        # Thousands of lines take a tenth of a second; what is counted is read here.
        rows = self._metrics.read()
        page = CollectorRegistry(auto_describe=False)
        page.register(_Read(self._metrics.families(rows)))
        page.register(self._target)
        body = await in_thread(encode, page)
        if is_plain:
            body = _TYPE_SUFFIX.sub(rb"\1", body)
        return Response(200, body, content_type)


def _label(key: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in key)
