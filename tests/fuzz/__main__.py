"""Fuzzes one target, guided by coverage: `python -m tests.fuzz TARGET [libFuzzer's …]`.

`make fuzz` runs it, with sanitizers in the compiled modules.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["k8strace"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
