"""Real clients that send trace requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.backend import PATH

KUBE = Path(__file__).parent.parent / "data" / "kube"


def recorded() -> list[bytes]:
    """The recorded requests of a kube-apiserver and an etcd, as they were sent."""
    files = sorted(KUBE.glob("*.pb"))
    assert files
    return [file.read_bytes() for file in files]


class Client:
    """A gRPC client of the OTLP trace service that sends bytes as they are."""

    def __init__(self, endpoint: str, *, gzip: bool = False) -> None:
        self._channel = grpc.aio.insecure_channel(
            endpoint,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
                # Servers come back within seconds here.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
            ],
        )
        self._gzip = gzip

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def send(
        self,
        body: bytes | ExportTraceServiceRequest,
        *,
        path: str = PATH,
        timeout: float = 20.0,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> ExportTraceServiceResponse:
        """One request; raises grpc.aio.AioRpcError."""
        if isinstance(body, ExportTraceServiceRequest):
            body = body.SerializeToString()
        call: Any = self._channel.unary_unary(path)
        answer: bytes = await call(
            body,
            timeout=timeout,
            metadata=tuple(metadata),
            compression=grpc.Compression.Gzip if self._gzip else None,
        )
        return ExportTraceServiceResponse.FromString(answer)
