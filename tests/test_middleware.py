from __future__ import annotations

import msgspec
import pytest

from k8strace.component import ComponentID, Config, Extension
from k8strace.config import decode
from k8strace.errors import ConfigError
from k8strace.grpc import Admission
from k8strace.middleware import Middleware, ServerMiddleware, admission
from tests.support.pipeline import context

FIRST, SECOND = ComponentID("door", "first"), ComponentID("door", "second")


class Door(ServerMiddleware[Config]):
    type_name = "door"

    def admission(self, inner: Admission) -> Admission:
        return Behind(self, inner)  # type: ignore[return-value]


class Behind:
    def __init__(self, door: Door, inner: Admission) -> None:
        self.door = door
        self.inner = inner


EXTENSIONS = {
    FIRST: Door(Config(), context("extensions", "door/first")),
    SECOND: Door(Config(), context("extensions", "door/second")),
    ComponentID("other"): Extension(Config(), context("extensions", "other")),
}
CONTEXT = msgspec.structs.replace(context("receivers", "otlp"), extensions=EXTENSIONS)


def test_without_any_it_is_the_budget() -> None:
    assert admission((), CONTEXT) is CONTEXT.budget


def test_the_first_is_asked_first() -> None:
    way = admission((Middleware(id=FIRST), Middleware(id=SECOND)), CONTEXT)
    assert isinstance(way, Behind)
    assert way.door is EXTENSIONS[FIRST]
    assert isinstance(way.inner, Behind)
    assert way.inner.door is EXTENSIONS[SECOND]
    assert way.inner.inner is CONTEXT.budget


@pytest.mark.parametrize("name", ["other", "nobody"])
def test_what_is_no_middleware(name: str) -> None:
    with pytest.raises(ValueError, match=f"middlewares: {name} is no middleware"):
        admission((Middleware(id=ComponentID(name)),), CONTEXT)


@pytest.mark.parametrize(
    ("given", "text"), [({}, "id: is missing"), ({"id": ""}, "id"), ({"ids": "a"}, "ids")]
)
def test_mistakes(given: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        decode(Middleware, given)
