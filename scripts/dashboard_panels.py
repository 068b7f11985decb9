"""The panels of the Grafana dashboard, by row; `dashboard.py` writes them.

`$instance`, `$__range` and `$__rate_interval` are Grafana's; legends are made of labels.
"""

from __future__ import annotations

from typing import NamedTuple

OURS = 'job="k8strace", instance=~"$instance"'


class Query(NamedTuple):
    expr: str
    legend: str


class Panel(NamedTuple):
    """A graph over time; or with `is_number` what is now, red from `red` on."""

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    is_number: bool = False
    red: float | None = None


def rate(series: str, by: str = "", **labels: str) -> str:
    """The sum of a counter's rates, by labels."""
    matchers = ", ".join([OURS, *(f'{name}="{value}"' for name, value in labels.items())])
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({series}{{{matchers}}}[$__rate_interval]))"


def gauge(series: str, by: str = "", **labels: str) -> str:
    """The sum of a gauge, by labels."""
    matchers = ", ".join([OURS, *(f'{name}="{value}"' for name, value in labels.items())])
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} ({series}{{{matchers}}})"


def ratio(part: str, whole: str, by: str = "") -> str:
    """The largest of one gauge over another, by labels."""
    grouping = f" by ({by})" if by else ""
    return f"max{grouping} ({part}{{{OURS}}} / {whole}{{{OURS}}})"


def quantile(share: float, series: str, by: str) -> str:
    buckets = rate(f"{series}_bucket", by=f"le, {by}")
    return f"histogram_quantile({share}, {buckets})"


IN = rate("otelcol_receiver_accepted_spans_total")
OUT = rate("otelcol_exporter_sent_spans_total")
DROPPED = f'k8strace_spans_total{{{OURS}, outcome="dropped"}}'
LOST = f"sum (increase({DROPPED}[$__range])) or vector(0)"
IN_FLIGHT = gauge("k8strace_spans_in_flight", kind="receivers")
LEAVING = rate("k8strace_spans_total", kind="receivers", outcome="out")
HELD_FOR = f"({gauge('k8strace_spans_parked')} + {IN_FLIGHT}) / {LEAVING}"

ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel("Gateways", "That answer scrapes.", "none", (Query(gauge("up"), ""),), True),
        Panel("Spans in", "Taken from senders.", "cps", (Query(IN, ""),), True),
        Panel("Spans out", "Taken by backends.", "cps", (Query(OUT, ""),), True),
        Panel("Lost in this time", "Dropped spans.", "none", (Query(LOST, ""),), True, 1),
        Panel(
            "Fullest queue",
            "At 100 % senders are refused.",
            "percentunit",
            (
                Query(
                    ratio("otelcol_exporter_queue_size", "otelcol_exporter_queue_capacity"),
                    "",
                ),
            ),
            True,
            0.8,
        ),
        Panel(
            "Memory for spans",
            "Of the budget, in the gateway that is fullest.",
            "percentunit",
            (
                Query(
                    ratio("k8strace_budget_used_bytes", "k8strace_budget_limit_bytes"), ""
                ),
            ),
            True,
            0.8,
        ),
    ),
    "Throughput": (
        Panel(
            "Spans in, by receiver",
            "Accepted, and refused: their senders try again.",
            "cps",
            (
                Query(
                    rate("otelcol_receiver_accepted_spans_total", "receiver, transport"),
                    "{{receiver}} {{transport}}",
                ),
                Query(
                    rate("otelcol_receiver_refused_spans_total", "receiver, transport"),
                    "{{receiver}} {{transport}} refused",
                ),
            ),
        ),
        Panel(
            "Spans out, by exporter",
            "Taken by the backend.",
            "cps",
            (Query(rate("otelcol_exporter_sent_spans_total", "exporter"), "{{exporter}}"),),
        ),
        Panel(
            "Spans in, by gateway",
            "Uneven lines: senders keep their connections; see max_connection_age.",
            "cps",
            (
                Query(
                    rate("otelcol_receiver_accepted_spans_total", "instance"),
                    "{{instance}}",
                ),
            ),
        ),
    ),
    "Losses": (
        Panel(
            "Dropped, by reason",
            "Lost for good: docs/drops.md tells the reasons.",
            "cps",
            (
                Query(
                    rate("k8strace_spans_dropped_total", "component, reason"),
                    "{{component}} {{reason}}",
                ),
            ),
        ),
        Panel(
            "Refused and resent",
            "Refused spans come again, or are their sender's loss; resent ones come twice.",
            "cps",
            (
                Query(
                    rate(
                        "k8strace_spans_total",
                        "component",
                        outcome="refused",
                        kind="receivers",
                    ),
                    "{{component}} refused",
                ),
                Query(
                    rate("k8strace_spans_resent_total", "component"), "{{component}} resent"
                ),
            ),
        ),
        Panel(
            "Rejected requests, by reason",
            "Ended before their spans could be counted.",
            "reqps",
            (
                Query(
                    rate("k8strace_requests_rejected_total", "component, reason"),
                    "{{component}} {{reason}}",
                ),
            ),
        ),
    ),
    "Queues and backends": (
        Panel(
            "Queue, of its capacity",
            "With what is being sent.",
            "percentunit",
            (
                Query(
                    ratio(
                        "otelcol_exporter_queue_size",
                        "otelcol_exporter_queue_capacity",
                        "instance, exporter",
                    ),
                    "{{instance}} {{exporter}}",
                ),
            ),
        ),
        Panel(
            "Latency",
            "How long spans are held on average (what is held over what leaves), and the "
            "oldest request in a queue.",
            "s",
            (
                Query(
                    HELD_FOR,
                    "average",
                ),
                Query(
                    f"max by (exporter) (k8strace_exporter_queue_oldest_seconds{{{OURS}}})",
                    "{{exporter}} oldest",
                ),
            ),
        ),
        Panel(
            "Attempts after the first, and failures",
            "Retries, and spans that were given up after them.",
            "cps",
            (
                Query(
                    rate("k8strace_exporter_retries_total", "exporter"),
                    "{{exporter}} retries",
                ),
                Query(
                    rate("otelcol_exporter_send_failed_spans_total", "exporter"),
                    "{{exporter}} spans given up",
                ),
            ),
        ),
        Panel(
            "Requests being sent",
            "At num_consumers the backend is what is slow.",
            "none",
            (
                Query(
                    gauge("otelcol_exporter_in_flight_requests", "instance, exporter"),
                    "{{instance}} {{exporter}}",
                ),
            ),
        ),
        Panel(
            "Spans in a request that goes out",
            "Half of them have no more than p50.",
            "none",
            tuple(
                Query(
                    quantile(share, "otelcol_exporter_queue_batch_send_size", "exporter"),
                    f"{{{{exporter}}}} p{share * 100:g}",
                )
                for share in (0.5, 0.99)
            ),
        ),
        Panel(
            "Queue, in bytes",
            "In memory and on disk.",
            "bytes",
            (
                Query(
                    gauge("k8strace_exporter_queue_bytes", "instance, exporter"),
                    "{{instance}} {{exporter}}",
                ),
            ),
        ),
    ),
    "Memory and CPU": (
        Panel(
            "Memory for spans",
            "Bytes of spans that are held, and their limit.",
            "bytes",
            (
                Query(gauge("k8strace_budget_used_bytes", "instance"), "{{instance}}"),
                Query(
                    gauge("k8strace_budget_limit_bytes", "instance"), "{{instance}} limit"
                ),
            ),
        ),
        Panel(
            "Resident memory",
            "Of all processes of a gateway.",
            "bytes",
            (Query(gauge("otelcol_process_memory_rss_bytes", "instance"), "{{instance}}"),),
        ),
        Panel(
            "CPU",
            "Cores; one process uses one at most.",
            "none",
            (Query(rate("otelcol_process_cpu_seconds_total", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Spans held, by component",
            "They wait, or are worked on.",
            "none",
            (
                Query(
                    gauge("k8strace_spans_parked", "kind, component"),
                    "{{kind}}/{{component}}",
                ),
                Query(
                    gauge("k8strace_spans_in_flight", "kind, component"),
                    "{{kind}}/{{component}} in flight",
                ),
            ),
        ),
        Panel(
            "Loop lag",
            "By how much what is due comes late; own: what the machine has no part in.",
            "s",
            tuple(
                Query(
                    quantile(0.999, series, "instance"),
                    f"{{{{instance}}}} {name} p99.9",
                )
                for name, series in (
                    ("wall", "k8strace_loop_lag_seconds"),
                    ("own", "k8strace_loop_own_lag_seconds"),
                )
            ),
        ),
        Panel(
            "Workers",
            "Processes by state, with several workers.",
            "none",
            (
                Query(
                    gauge("k8strace_workers", "instance, state"), "{{instance}} {{state}}"
                ),
            ),
        ),
        Panel(
            "Restarts",
            "Of workers, and of gateways.",
            "none",
            (
                Query(
                    f"sum by (instance) (increase(k8strace_worker_restarts_total{{{OURS}}}"
                    "[$__rate_interval]))",
                    "{{instance}} workers",
                ),
                Query(
                    f"resets(otelcol_process_uptime_seconds_total{{{OURS}}}[$__rate_interval])",
                    "{{instance}}",
                ),
            ),
        ),
    ),
    "Store": (
        Panel(
            "On disk",
            "Bytes that queues take.",
            "bytes",
            (
                Query(
                    gauge("k8strace_store_bytes", "instance, exporter"),
                    "{{instance}} {{exporter}}",
                ),
            ),
        ),
        Panel(
            "Time of a commit",
            "How long the disk takes for a group of requests; senders wait for it.",
            "s",
            tuple(
                Query(
                    quantile(share, "k8strace_store_commit_seconds", "exporter"),
                    f"{{{{exporter}}}} p{share * 100:g}",
                )
                for share in (0.5, 0.99)
            ),
        ),
        Panel(
            "Requests stored",
            "Committed, failed (senders try again) and corrupt (set aside).",
            "reqps",
            tuple(
                Query(
                    rate(f"k8strace_store_{what}_records_total", "exporter"),
                    f"{{{{exporter}}}} {what}",
                )
                for what in ("committed", "failed", "corrupt")
            ),
        ),
        Panel(
            "Requests on disk",
            "That are not done.",
            "none",
            (
                Query(
                    gauge("k8strace_store_records", "instance, exporter"),
                    "{{instance}} {{exporter}}",
                ),
            ),
        ),
        Panel(
            "Recovered spans",
            "Found on disk at a start.",
            "cps",
            (
                Query(
                    rate("k8strace_store_recovered_spans_total", "exporter"), "{{exporter}}"
                ),
            ),
        ),
    ),
}
