"""nop: takes every span and sends it nowhere."""

from __future__ import annotations

from k8strace import component
from k8strace.component import Exporter, Promise
from k8strace.payload import Payload


class Config(component.Config, frozen=True, kw_only=True):
    """No options, as in the collector."""


class Nop(Exporter[Config]):
    """Takes everything at once."""

    type_name = "nop"
    config_type = Config

    @property
    def promise(self) -> Promise:
        return Promise.MEMORY

    async def consume(self, payload: Payload) -> None:
        self.ledger.send(payload.spans)
