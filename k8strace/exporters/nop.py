"""nop: takes every span and sends it nowhere."""

from __future__ import annotations

from k8strace.component import Promise
from k8strace.exporters._sending import (
    QueueConfig,
    RetryConfig,
    SendingConfig,
    SendingExporter,
    Sent,
)
from k8strace.payload import Payload
from k8strace.units import Duration


class Config(SendingConfig, frozen=True, kw_only=True):
    """Nothing of its own; no queue, retry or timeout unless they are asked for."""

    timeout: Duration = Duration(0.0)
    sending_queue: QueueConfig = QueueConfig(enabled=False)
    retry_on_failure: RetryConfig = RetryConfig(enabled=False)


class Nop(SendingExporter[Config]):
    """Takes everything at once."""

    type_name = "nop"
    config_type = Config
    keeps = Promise.MEMORY

    async def send(self, payload: Payload) -> Sent:  # noqa: ARG002
        return Sent()
