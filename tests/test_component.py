"""Ids and defaults that all components share."""

import pytest

from k8strace.component import Component, ComponentID, Config, Processor, Promise
from tests.support.pipeline import Sink, context, edge_to


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("otlp", ("otlp", "")),
        ("otlp/two", ("otlp", "two")),
        (" otlp / a b ", ("otlp", "a b")),
    ],
)
def test_ids(text: str, expected: tuple[str, str]) -> None:
    assert ComponentID.parse(text) == expected


@pytest.mark.parametrize("text", ["", "/x", "otlp/", "  "])
def test_what_is_no_id_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"id must be type or type/name") as caught:
        ComponentID.parse(text)
    assert repr(text) in str(caught.value)


def test_an_id_is_written_as_it_was_read() -> None:
    assert [str(ComponentID.parse(text)) for text in ("otlp", "otlp/x")] == [
        "otlp",
        "otlp/x",
    ]


async def test_stop_without_start_is_safe() -> None:
    component = Component(Config(), context("extensions", "nothing"))
    await component.stop(0)
    await component.stop(0)


def test_a_processor_promises_what_is_behind_it() -> None:
    sink = Sink()
    for promise in Promise:
        sink.promised = promise
        edge, _ = edge_to(sink)
        processor: Processor[Config] = Processor(
            Config(), context("processors", "p", pipeline="traces"), edge
        )
        assert processor.promise is promise
        assert processor.hard_limit is None
        assert not processor.needs_origin
