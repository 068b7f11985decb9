"""A real kube-apiserver refuses the tracing configurations that our data say it does."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.kube.control_plane import ControlPlane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]
CASES: list[dict[str, Any]] = json.loads(
    Path("tests/data/tracing-configuration.json").read_text()
)
WRONG = [case for case in CASES if "error" in case]
# One line is quoted, as Python does it; of several each begins with a tab.
ERROR = re.compile(
    r'"command failed" err=(?:("(?:[^"\\]|\\.)*")|<\n((?:\t.*\n)+) >)', re.MULTILINE
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plane")


@pytest.fixture(scope="module")
def plane(folder: Path) -> ControlPlane:
    """One that is never whole: its kube-apiserver ends before it misses its etcd."""
    return ControlPlane(folder, "127.0.0.1:4317")


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case["name"])
async def test_says_the_same_and_does_not_start(
    case: dict[str, Any], plane: ControlPlane, folder: Path
) -> None:
    (folder / "tracing.yaml").write_text(case["text"])
    apiserver = plane.apiserver
    await apiserver.start()
    try:
        assert await apiserver.wait() == 1
    finally:
        await apiserver.kill()
    quoted, lines = ERROR.findall(apiserver.log)[-1]
    said = ast.literal_eval(quoted) if quoted else textwrap.dedent(lines).strip()
    assert said == case["error"]
