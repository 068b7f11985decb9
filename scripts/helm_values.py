"""Writes the table of values in deploy/README.md from the chart's values and schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from scripts.manifests import CHART, DEPLOY

PAGE = DEPLOY / "README.md"
BEGIN = "<!-- values -->"
END = "<!-- /values -->"
NOT_SET = object()


def rows(
    schema: dict[str, Any], values: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any, str]]:
    """Path, default and description of each value; what the schema leaves open is one."""
    known = schema.get("properties", {}) if values else {}
    if known and schema.get("additionalProperties") is False and path != ("resources",):
        for name, below in known.items():
            value = values.get(name, NOT_SET)
            if value is not NOT_SET:
                yield from rows(below, value, (*path, name))
    else:
        yield ".".join(path), values, schema.get("description", "")


def table() -> str:
    """The values as Markdown."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = ["| value | default | |", "|---|---|---|"]
    for path, default, about in rows(schema, values):
        shown = "see [values.yaml](helm/k8strace/values.yaml)"
        if len(text := json.dumps(default)) < 40:
            shown = f"`{text}`"
        lines.append(f"| `{path}` | {shown} | {about} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """The page's text with the table of now, between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}{END}{after}"


def main() -> None:
    """Bring the page up to date."""
    PAGE.write_text(with_table(PAGE.read_text()))


if __name__ == "__main__":
    main()
