"""health_check: over HTTP, whether the gateway takes spans, and whether it lives.

`path` answers 200 while all components are started, 503 before and while draining
(collector extension `health_check`); `liveness_path`, which is ours, answers 200 as long
as the event loop runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from k8strace import component
from k8strace._http1 import Request
from k8strace.addresses import listen_address
from k8strace.component import Context
from k8strace.extensions._page_options import NOT_AVAILABLE
from k8strace.net.http_server import HTTPServer
from k8strace.net.messages import Response, text_response

JSON = "application/json; charset=utf-8"


class ResponseBody(component.Config, frozen=True, kw_only=True):
    """Texts to answer with instead of the JSON status."""

    healthy: str = ""
    unhealthy: str = ""


class Config(component.Config, frozen=True, kw_only=True):
    """A `path` that ends in / stands for all paths below it, as in the collector, but for
    `liveness_path`; one that is the same as that is readiness, as it is there."""

    not_available: ClassVar[Mapping[str, str]] = {
        **NOT_AVAILABLE,
        "check_collector_pipeline": "it never worked; leave it out",
        "use_v2": "leave it out, and write endpoint and path here",
        "http": "write endpoint and path here",
        "grpc": "ask the receiver for grpc.health.v1.Health/Check",
        "component_health": "leave it out",
    }

    endpoint: str = "localhost:13133"
    path: str = "/"
    liveness_path: str = "/livez"
    response_body: ResponseBody | None = None

    def __post_init__(self) -> None:
        listen_address(self.endpoint)
        for name, path in (("path", self.path), ("liveness_path", self.liveness_path)):
            if not path.startswith("/"):
                raise ValueError(f"{name} must begin with /, not {path!r}")


class HealthCheck(component.Extension[Config]):
    type_name = "health_check"
    config_type = Config
    speaks_for_all = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self._up_since: tuple[float, float] | None = None  # by the wall clock, monotonic
        self._server = HTTPServer({config.liveness_path: _live, config.path: self._answer})

    @property
    def address(self) -> str:
        """The address as bound."""
        return self._server.address

    async def start(self) -> None:
        await self._server.start(*listen_address(self.config.endpoint))
        self.log.info("health on http://%s%s", self.address, self.config.path)

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        self._up_since = None
        await self._server.stop()

    def ready(self, is_ready: bool) -> None:
        self._up_since = (time.time(), time.monotonic()) if is_ready else None

    async def _answer(self, request: Request) -> Response:  # noqa: ARG002
        body = self.config.response_body
        if self._up_since is None:
            text = body.unhealthy if body else ""
            if text:
                return text_response(503, text)
            return Response(503, b'{"status":"Server not available"}', JSON)
        if body and body.healthy:
            return text_response(200, body.healthy)
        since, start = self._up_since
        answer = {
            "status": "Server available",
            "upSince": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since)),
            "uptime": f"{time.monotonic() - start:.3f}s",
        }
        return Response(200, msgspec.json.encode(answer), JSON)


async def _live(request: Request) -> Response:  # noqa: ARG001
    """What stands still doesn't get here: whoever asks waits, and gives up."""
    return Response(200, b'{"status":"Alive"}', JSON)
