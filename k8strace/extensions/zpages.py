"""zpages: pages about the gateway, for people and, as JSON, for machines.

`/debug/servicez` says what runs, `/debug/pipelinez` what each component did with its spans,
`/debug/dropz` where spans were lost lately.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import ClassVar, TypeVar
from urllib.parse import parse_qs

import msgspec

from k8strace import component
from k8strace._http1 import Request
from k8strace.addresses import listen_address
from k8strace.background import ended, keep_running
from k8strace.component import Context, Overview
from k8strace.extensions import _zpages_facts, _zpages_html
from k8strace.extensions._page_options import NOT_AVAILABLE
from k8strace.losses import TICK
from k8strace.net.http_server import Handler, HTTPServer
from k8strace.net.messages import Response, text_response

F = TypeVar("F")

_HEADERS = (
    # Nothing is fetched and no script runs, whatever a page may be made to contain.
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
)


class Expvar(component.Config, frozen=True, kw_only=True):
    """The collector's page of Go's variables, which are not here."""

    enabled: bool = False

    def __post_init__(self) -> None:
        if self.enabled:
            raise ValueError(
                "enabled can be false only: there are no Go variables; the state of the "
                "process is in its metrics"
            )


class Config(component.Config, frozen=True, kw_only=True):
    not_available: ClassVar[Mapping[str, str]] = NOT_AVAILABLE

    endpoint: str = "localhost:55679"
    expvar: Expvar = Expvar()

    def __post_init__(self) -> None:
        listen_address(self.endpoint)


class ZPages(component.Extension[Config]):
    type_name = "zpages"
    config_type = Config
    speaks_for_all = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self._overview: Overview | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._server = HTTPServer(
            {
                "/debug/servicez": self._page(_zpages_facts.service, _zpages_html.service),
                "/debug/pipelinez": self._page(
                    _zpages_facts.pipelines, _zpages_html.pipelines
                ),
                "/debug/dropz": self._page(_zpages_facts.losses, _zpages_html.losses),
            }
        )

    @property
    def address(self) -> str:
        """The address as bound."""
        return self._server.address

    def show(self, overview: Overview) -> None:
        self._overview = overview

    async def start(self) -> None:
        await self._server.start(*listen_address(self.config.endpoint))
        self._ticking = keep_running(self._tick, "watching for losses", self.log)
        self.log.info("zpages on http://%s/debug/servicez", self.address)

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        ticking, self._ticking = self._ticking, None
        if ticking is not None:
            ticking.cancel()
            await ended(ticking)
        await self._server.stop()

    async def _tick(self) -> None:
        """Look at the counters now and then: what is on a page is how they grew."""
        while True:
            if self._overview is not None:
                metrics = self._overview.metrics
                totals = _zpages_facts.totals(metrics.read())
                metrics.losses.observe(monotonic(), totals)
            await asyncio.sleep(TICK)

    def _page(self, facts: Callable[[Overview], F], html: Callable[[F], str]) -> Handler:
        async def answer(request: Request) -> Response:
            if self._overview is None:
                return text_response(503, "503: the gateway is starting")
            (wanted,) = parse_qs(request.query).get("format", [""])[:1]
            wanted = wanted or _wanted((request.get(b"accept") or b"").decode("latin-1"))
            found = facts(self._overview)
            if wanted == "json":
                body, kind = msgspec.json.encode(found), "application/json"
            elif wanted == "html":
                body, kind = html(found).encode(), "text/html"
            else:
                return text_response(400, "400: format is html or json", _HEADERS)
            return Response(200, body, f"{kind}; charset=utf-8", _HEADERS)

        return answer


def _wanted(accept: str) -> str:
    """The format for a client that names none: JSON where it asks for that before HTML."""
    for kind in accept.split(","):
        match kind.partition(";")[0].strip().lower():
            case "application/json":
                return "json"
            case "text/html":
                return "html"
    return "html"
