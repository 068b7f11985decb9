"""A real OTLP/gRPC server on loopback that does what a test tells it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from k8strace.grpc.status import StatusError
from tests.support.ports import free_port
from tests.support.requests import span_ids

PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
Answer = Callable[[ExportTraceServiceRequest], Awaitable[ExportTraceServiceResponse | None]]


class Backend:
    """Takes every request, unless `answer` raises a StatusError or answers otherwise.

    `ids` counts the span ids of the requests that were answered with OK; the requests
    themselves are kept unless `keep` is false. With `credentials` it speaks TLS.
    """

    def __init__(
        self,
        max_message: int = 64 * 1024 * 1024,
        *,
        keep: bool = True,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._keep = keep
        self._credentials = credentials
        self.requests: list[ExportTraceServiceRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.ids: Counter[bytes] = Counter()
        self.calls = 0
        self.answer: Answer | None = None
        self.port = free_port()  # for when it comes back
        self._max_message = max_message
        self._server: grpc.aio.Server | None = None
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Backend:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, each time on the same port."""
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._max_message),
                ("grpc.so_reuseport", 0),
            ]
        )
        method = grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=ExportTraceServiceRequest.FromString,
            response_serializer=ExportTraceServiceResponse.SerializeToString,
        )
        service, name = PATH[1:].split("/")
        handler = grpc.method_handlers_generic_handler(service, {name: method})
        server.add_generic_rpc_handlers((handler,))
        if self._credentials is None:
            server.add_insecure_port(self.endpoint)
        else:
            server.add_secure_port(self.endpoint, self._credentials)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def spans(self) -> int:
        return self.ids.total()

    async def wait_for_spans(self, spans: int, timeout: float = 30.0) -> None:
        """Until at least `spans` spans were taken."""
        async with asyncio.timeout(timeout):
            while self.spans < spans:
                self._changed.clear()
                await self._changed.wait()

    async def wait_for_calls(self, calls: int, timeout: float = 60.0) -> None:
        """Until it was called so often, whatever it answered."""
        async with asyncio.timeout(timeout):
            while self.calls < calls:
                self._changed.clear()
                await self._changed.wait()

    async def _export(
        self, message: ExportTraceServiceRequest, context: Any
    ) -> ExportTraceServiceResponse:
        self.calls += 1
        self._changed.set()
        if self._keep:
            self.metadata.append(dict(context.invocation_metadata() or ()))
        response = None
        if self.answer is not None:
            try:
                response = await self.answer(message)
            except StatusError as error:
                await _abort(context, error)
        if self._keep:
            self.requests.append(message)
        self.ids.update(span_ids(message))
        self._changed.set()
        return response or ExportTraceServiceResponse()


async def _abort(context: Any, error: StatusError) -> None:
    details: Status = error.proto()
    code = next(c for c in grpc.StatusCode if c.value[0] == error.code)
    await context.abort(
        code,
        error.message,
        (("grpc-status-details-bin", details.SerializeToString()),),
    )
