"""Every component that the gateway knows: kind, type names, class.

One line adds a component. The first name is the collector's present one; the others are
older spellings of it, accepted and kept as they were written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from k8strace.component import Component

Table = Mapping[str, Mapping[str, type[Component[Any]]]]


def _table(*rows: tuple[type[Component[Any]], tuple[str, ...]]) -> Table:
    table: dict[str, dict[str, type[Component[Any]]]] = {
        "receivers": {},
        "processors": {},
        "exporters": {},
        "extensions": {},
    }
    for component, aliases in rows:
        for name in (component.type_name, *aliases):
            if name in table[component.kind]:
                raise ValueError(f"two {component.kind} are called {name}")
            table[component.kind][name] = component
    return table


COMPONENTS = _table()
