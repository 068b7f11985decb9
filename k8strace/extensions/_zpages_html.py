"""The pages of zpages for people: tables, without scripts or anything from elsewhere.

All text is escaped where it is put into a page: names of services come from outside.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape

from k8strace.extensions._zpages_facts import (
    HOUR,
    ComponentState,
    Losses,
    LossState,
    Pipelines,
    Service,
)

_STYLE = """\
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 104em;
  padding: 0 1em; color: #222; background: #fff; }
nav a { margin-right: 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 1.6em; }
table { border-collapse: collapse; }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top; }
th { background: #f4f4f4; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.zero { color: #aaa; }
td.loss { background: #fdd; }
td.text { overflow-wrap: anywhere; min-width: 24em; }
pre { background: #f4f4f4; padding: 1em; overflow: auto; }
"""
_PAGES = ("servicez", "pipelinez", "dropz")
_OUTCOMES = ("in", "recovered", "out", "filtered", "sampled_out", "rejected", "refused")
_COLUMNS = (*_OUTCOMES, "stored", "dropped", "parked", "in_flight")
_WHAT = {
    "dropped": "spans dropped",
    "rejected": "spans rejected",
    "refused": "spans refused",
    "requests": "requests rejected",
}


def service(facts: Service) -> str:
    """/debug/servicez."""
    rows = [
        ("version", f"k8strace {facts.version}, Python {facts.python}"),
        ("started", _when(facts.started)),
        ("up for", _duration(facts.uptime)),
        ("extensions", ", ".join(facts.extensions) or "none"),
    ]
    if facts.workers:
        states = (f"{number} {state}" for state, number in facts.workers.items() if number)
        rows.insert(1, ("workers", ", ".join(states)))
    return _page(
        "servicez",
        _table((), [_cells(*row) for row in rows]),
        "<h2>Pipelines</h2>",
        _table(
            ("pipeline", "receivers", "processors", "exporters", "promise"),
            [
                _cells(
                    one.name,
                    ", ".join(one.receivers),
                    ", ".join(one.processors),
                    ", ".join(one.exporters),
                    one.promise,
                )
                for one in facts.pipelines
            ],
        ),
        "<h2>Configuration</h2>",
        f"<pre>{escape(facts.configuration)}</pre>",
    )


def pipelines(facts: Pipelines) -> str:
    """/debug/pipelinez."""
    parts = [
        "<p>In spans, since the start. in + recovered = out + filtered + sampled out + "
        "rejected + refused + stored + dropped + parked + in flight. Receivers and "
        "exporters are shared by all pipelines that name them.</p>"
    ]
    columns = (name.replace("_", " ") for name in _COLUMNS)
    headers = ("", "component", *columns, "queue", "queue bytes", "oldest")
    for pipeline in facts.pipelines:
        parts += [
            f"<h2>{escape(pipeline.name)}: {escape(pipeline.promise)}</h2>",
            _table(headers, [_component(one) for one in pipeline.components], first=2),
        ]
    return _page("pipelinez", *parts)


def _component(state: ComponentState) -> str:
    spans = ((name, state.spans.get(name, 0)) for name in _COLUMNS)
    numbers = (_number(n, is_loss=name == "dropped") for name, n in spans)
    queue = ("", "", "")
    if state.queue is not None:
        size, capacity = state.queue.size, state.queue.capacity
        oldest = f"{state.queue.oldest:.1f} s" if state.queue.oldest else ""
        queue = (f"{size:,} of {capacity:,}", f"{state.queue.bytes:,}", oldest)
    last = "".join(f'<td class="n">{escape(text)}</td>' for text in queue)
    return _cells(state.kind.removesuffix("s"), state.id) + "".join(numbers) + last


def losses(facts: Losses) -> str:
    """/debug/dropz."""
    since = ""
    if facts.remembered < HOUR:
        since = f" Columns of minutes go back {_duration(facts.remembered)}."
    parts = [
        "<p>Dropped spans are lost. Senders of rejected spans were told never to send them "
        "again, senders of refused ones to try again. Of rejected requests nobody knows "
        "how many spans they had.</p>",
        f"<p>At {_when(facts.time)}.{since}</p>",
    ]
    if not facts.losses:
        return _page("dropz", *parts, "<p><b>Nothing was lost.</b></p>")
    headers = (
        *("component", "what", "reason", "1 min", "10 min", "60 min", "in all"),
        *("last sample", "peer", "service", "said"),
    )
    rows = [_loss(one) for one in facts.losses]
    return _page("dropz", *parts, _table(headers, rows, first=3, last=7))


def _loss(state: LossState) -> str:
    sample = state.sample
    lately = (state.last_minute, state.last_10_minutes, state.last_hour)
    is_loss = state.what != "refused"
    last = ("", "", "")
    if sample is not None:
        last = (_when(sample.time), sample.peer, sample.service)
    return "".join(
        (
            _cells(f"{state.kind}/{state.component}", _WHAT[state.what], state.reason),
            *(_number(one, is_loss=is_loss) for one in lately),
            _number(state.total, is_loss=False),
            _cells(*last),
            f'<td class="text">{escape(sample.text if sample else "")}</td>',
        )
    )


def _page(name: str, *parts: str) -> str:
    links = " ".join(f'<a href="/debug/{one}">{one}</a>' for one in _PAGES)
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">',
            f"<title>{name} - k8strace</title>\n<style>\n{_STYLE}</style></head>\n<body>",
            f'<nav>{links}<a href="?format=json">as JSON</a></nav>\n<h1>{name}</h1>',
            *parts,
            "</body></html>\n",
        )
    )


def _table(
    headers: Sequence[str], rows: Iterable[str], first: int = 0, last: int | None = None
) -> str:
    """Rows of cells; the columns from `first` to before `last` are numbers."""
    numbers = range(first, len(headers) if last is None else last) if first else ()
    head = "".join(
        f'<th class="n">{escape(one)}</th>' if at in numbers else f"<th>{escape(one)}</th>"
        for at, one in enumerate(headers)
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f"<table>\n<tr>{head}</tr>\n{body}\n</table>"
        if head
        else (f"<table>\n{body}\n</table>")
    )


def _cells(*texts: str) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)


def _number(number: int, *, is_loss: bool) -> str:
    style = "n loss" if number and is_loss else "n" if number else "n zero"
    return f'<td class="{style}">{number:,}</td>'


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def _duration(seconds: float) -> str:
    """In the two largest units."""
    left, parts = int(seconds), list[str]()
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size or parts or name == "s":
            parts.append(f"{left // size} {name}")
            left %= size
    return " ".join(parts[:2])
