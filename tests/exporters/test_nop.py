"""nop takes everything."""

from __future__ import annotations

import asyncio

from k8strace.exporters.nop import Config, Nop
from tests.support.pipeline import assert_at_rest, configured, context, edge_to, payload


async def test_takes_every_payload() -> None:
    exporter = Nop(configured(Nop, {}), context("exporters", "nop"))
    edge, source = edge_to(exporter)
    await exporter.start()
    for spans in (1, 512, 0):
        await edge(payload(spans))
    await exporter.stop(asyncio.get_running_loop().time() + 5)
    assert exporter.ledger.sent == 513 == source.sent
    assert_at_rest(exporter.ledger)


def test_has_no_queue_unless_asked() -> None:
    assert not Config().sending_queue.enabled
    assert not Config().retry_on_failure.enabled
    assert configured(Nop, {"sending_queue": {"queue_size": 7}}).sending_queue.enabled
