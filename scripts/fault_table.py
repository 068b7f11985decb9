"""Writes into docs/reliability.md what came of the faults: `make faults`, then this."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.results import load, table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / ".venv" / "faults" / "results.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- faults -->"
END = "<!-- /faults -->"


def with_table(page: str, text: str) -> str:
    """The page with `text` between its marks. Raises ValueError where there are none."""
    before, found, rest = page.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not (found and found_end):
        raise ValueError(f"{BEGIN} … {END} is not in the page")
    return f"{before}{BEGIN}\n{text}{END}{after}"


def main() -> int:
    results = load(RESULTS)
    if not results:
        sys.stderr.write("nothing was tested: make faults\n")
        return 2
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(page, table(results.values())), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
