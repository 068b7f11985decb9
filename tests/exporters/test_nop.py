"""nop takes everything."""

from __future__ import annotations

import asyncio

from k8strace.component import Promise
from k8strace.exporters.nop import Nop
from tests.support.pipeline import assert_at_rest, configured, context, edge_to, payload


async def test_takes_every_payload() -> None:
    exporter = Nop(configured(Nop, {}), context("exporters", "nop"))
    edge, source = edge_to(exporter)
    await exporter.start()
    for spans in (1, 512, 0):
        await edge(payload(spans))
    await exporter.stop(asyncio.get_running_loop().time() + 5)
    assert exporter.ledger.sent == 513 == source.sent
    assert exporter.promise is Promise.MEMORY
    assert_at_rest(exporter.ledger)
