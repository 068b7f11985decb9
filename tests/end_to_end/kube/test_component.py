"""What components' logs say of their exporters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.end_to_end.kube.component import Component, Exports

BATCH = '2026/11/27 batch_span_processor.go:298: "level"=8 "msg"="exporting spans" '


def component(tmp_path: Path, script: str) -> Component:
    return Component("python", [sys.executable, "-c", script], tmp_path / "log", {})


@pytest.mark.parametrize(
    ("log", "exports"),
    [
        ("", Exports(0, 0, 0)),
        (f'{BATCH}"count"=512 "total_dropped"=0\n' * 2, Exports(1024, 0, 0)),
        (
            f'{BATCH}"count"=512 "total_dropped"=3\n'
            "traces export: exporter export timeout: rpc error\n"
            f'{BATCH}"count"=7 "total_dropped"=90\n',
            Exports(7, 512, 90),
        ),
    ],
)
def test_the_exporters_account(tmp_path: Path, log: str, exports: Exports) -> None:
    (tmp_path / "log").write_text(log)
    assert component(tmp_path, "").exports == exports


async def test_one_that_has_ended_is_told_of_with_its_log(tmp_path: Path) -> None:
    one = component(tmp_path, "raise SystemExit('no such flag')")
    await one.start()
    assert await one.wait() == 1
    with pytest.raises(AssertionError, match=r"python ended with 1:\nno such flag"):
        one.assert_running()
    await one.stop()


async def test_one_that_runs_is_ended(tmp_path: Path) -> None:
    one = component(tmp_path, "import signal; signal.pause()")
    await one.start()
    one.assert_running()
    await one.kill()
    await one.stop()
