"""What stands between a server and its budget: extensions that `middlewares` name.

The collector's middlewares get each request; ours let its body in, or not.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from k8strace.component import C_co, ComponentID, Config, Context, Extension
from k8strace.grpc import Admission

MIDDLEWARE = msgspec.Meta(extra={"extension": "middleware"})
"""Annotates an option that names an extension which is a middleware of servers."""


class Middleware(Config, frozen=True, kw_only=True):
    """An entry of `middlewares`; the first one is asked first."""

    id: Annotated[ComponentID, MIDDLEWARE]


class ServerMiddleware(Extension[C_co]):
    """An extension that `middlewares` of a server may name."""

    def admission(self, inner: Admission) -> Admission:
        """Who lets requests in, where `inner` does so without this extension."""
        raise NotImplementedError


def admission(middlewares: tuple[Middleware, ...], context: Context) -> Admission:
    """The way to the budget. Raises ValueError where there is no such extension."""
    way: Admission = context.budget
    for one in reversed(middlewares):
        found = context.extensions.get(one.id)
        known = found if isinstance(found, ServerMiddleware) else None
        if known is None:
            raise ValueError(f"middlewares: {one.id} is no middleware of servers")
        way = known.admission(way)
    return way
