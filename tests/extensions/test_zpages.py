"""zpages over HTTP: formats, headers, what is escaped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any

import aiohttp
import msgspec
import pytest

from k8strace.errors import ConfigError
from k8strace.extensions import zpages
from k8strace.extensions._zpages_facts import Losses, Pipelines, Service
from k8strace.extensions.zpages import ZPages
from k8strace.losses import Loss, Sample
from k8strace.metrics import Metrics
from tests.support.overview import overview
from tests.support.pipeline import configured, context, until

PAGES = {"servicez": Service, "pipelinez": Pipelines, "dropz": Losses}
HOSTILE = "<script src='http://x'>alert(1)</script>\" onload=\"x&amp;"


@asynccontextmanager
async def serving(metrics: Metrics | None = None) -> AsyncIterator[ZPages]:
    config = configured(ZPages, {"endpoint": "127.0.0.1:0"})
    extension = ZPages(config, context("extensions", "zpages"))
    extension.show(overview(metrics or Metrics()))
    await extension.start()
    try:
        yield extension
    finally:
        await extension.stop(0)
        await extension.stop(0)


async def get(extension: ZPages, path: str, **headers: str) -> tuple[Any, str]:
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"http://{extension.address}{path}") as response:
            return response, await response.text()


class Tags(HTMLParser):
    """The tags and the text of a page, whose tags are all closed in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("page", PAGES)
async def test_pages_for_people_and_for_machines(page: str) -> None:
    async with serving() as extension:
        response, text = await get(extension, f"/debug/{page}")
        assert response.status == 200
        assert response.content_type == "text/html"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        tags = Tags(text)
        assert not tags.tags & {"script", "img", "link", "iframe"}
        assert tags.attributes <= {"lang", "charset", "href", "class"}
        assert page in tags.text
        for path, headers in (
            (f"/debug/{page}?format=json", {}),
            (f"/debug/{page}", {"Accept": "application/json"}),
        ):
            response, text = await get(extension, path, **headers)
            assert response.content_type == "application/json"
            msgspec.json.decode(text, type=PAGES[page])


async def test_which_format_is_wanted() -> None:
    async with serving() as extension:
        for accept, kind in (
            ("*/*", "text/html"),
            ("text/html,application/json;q=0.9", "text/html"),
            ("application/json;q=0.9, text/html;q=0.1", "application/json"),
        ):
            response, _ = await get(extension, "/debug/dropz", Accept=accept)
            assert response.content_type == kind
        response, text = await get(extension, "/debug/dropz?format=xml")
        assert (response.status, text) == (400, "400: format is html or json")
        assert (await get(extension, "/debug/tracez"))[0].status == 404


async def test_what_comes_from_outside_is_escaped() -> None:
    metrics = Metrics()
    metrics.ledger("exporters", "otlp").drop(3, "queue_full")
    loss = Loss("exporters", "otlp", "dropped", "queue_full")
    metrics.losses.note(loss, Sample(0.0, HOSTILE, HOSTILE, HOSTILE))
    async with serving(metrics) as extension:
        _, text = await get(extension, "/debug/dropz")
        tags = Tags(text)
        assert "script" not in tags.tags
        assert "onload" not in tags.attributes
        assert tags.text.count(HOSTILE) == 3


async def test_it_looks_at_the_counters_while_nobody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(zpages, "monotonic", lambda: now[0])
    monkeypatch.setattr(zpages, "TICK", 0.001)
    metrics = Metrics()
    async with serving(metrics):
        await asyncio.sleep(0)
        now[0] += 60
        await until(lambda: metrics.losses.remembered == 60)


async def test_before_it_knows_the_gateway() -> None:
    config = configured(ZPages, {"endpoint": "127.0.0.1:0"})
    extension = ZPages(config, context("extensions", "zpages"))
    await extension.stop(0)
    await extension.start()
    assert (await get(extension, "/debug/servicez"))[0].status == 503
    await extension.stop(0)


@pytest.mark.parametrize("values", [{"endpoint": "55679"}, {"expvar": {"enabled": True}}])
def test_mistakes(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(ZPages, values)
    assert next(iter(values)) in str(caught.value)


def test_what_is_configured_by_default() -> None:
    config = configured(ZPages, {"expvar": {"enabled": False}})
    assert config.endpoint == "localhost:55679"
