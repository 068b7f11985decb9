"""Writes into docs/reliability.md what came of the faults: `make faults`, then this."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.results import load, memory_table, table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / ".venv" / "faults" / "results.json"
PAGE = ROOT / "docs" / "reliability.md"


def with_table(page: str, text: str, mark: str = "faults") -> str:
    """The page with `text` between its marks. Raises ValueError where there are none."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{begin} … {end} is not in the page")
    return f"{before}{begin}\n{text}{end}{after}"


def main() -> int:
    results = load(RESULTS)
    if not results:
        sys.stderr.write("nothing was tested: make faults\n")
        return 2
    page = PAGE.read_text(encoding="utf-8")
    page = with_table(page, table(results.values()))
    page = with_table(page, memory_table(results.values()), "memory")
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
