"""Writes the option tables of docs/components from the components' Configs.

A page's table stands between two marks; what is around them is prose and stays. A page
that is missing is begun with the module's docstring, marks that are missing are added at
the end.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from k8strace.component import Component, Config
from k8strace.components import COMPONENTS
from k8strace.config import options

ComponentType = type[Component[Any]]

PAGES = Path(__file__).parent.parent / "docs" / "components"
BEGIN = "<!-- options -->"
END = "<!-- /options -->"


def table(config_type: type[Config]) -> str:
    """The options of a Config as Markdown; sections show by their options."""
    lines = []
    for option in options(config_type):
        if option.type == "map" and not option.default:
            continue
        default = option.default
        if default not in ("required", "not set"):
            default = f"`{default}`"
        note = "" if option.effect else "no effect here"
        row = f"| `{option.path}` | {option.type} | {default} | {note} |"
        lines.append(row.replace("|  |", "| |"))
    if not lines:
        return "It has no options.\n"
    return "\n".join(["| option | type | default | |", "|---|---|---|---|", *lines]) + "\n"


def page_of(component: ComponentType) -> Path:
    return PAGES / f"{component.type_name}.md"


def with_options(text: str, component: ComponentType) -> str:
    """A page's text with the table of now; marks are added where there are none."""
    before, mark, rest = text.partition(BEGIN)
    if not mark:
        before = f"{text.rstrip()}\n\n## Options\n\n"
    _, end, after = rest.partition(END)
    if not end:
        after = f"\n{rest.strip()}".rstrip() + "\n"
    return f"{before}{BEGIN}\n{table(component.config_type)}{END}{after}"


def begun(component: ComponentType) -> str:
    """A new page's text: what the module says of itself."""
    about = inspect.getdoc(importlib.import_module(component.__module__)) or ""
    about = about.removeprefix(f"{component.type_name}: ")
    return f"# {component.type_name}\n\n{about[:1].upper()}{about[1:]}\n"


def main() -> None:
    """Bring every page up to date."""
    for component in {one for kinds in COMPONENTS.values() for one in kinds.values()}:
        page = page_of(component)
        text = page.read_text() if page.exists() else begun(component)
        page.write_text(with_options(text, component))


if __name__ == "__main__":
    main()
