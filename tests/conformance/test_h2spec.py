"""HTTP/2 as h2spec tests it, against the server that is ours."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from k8strace.grpc import native
from tests.support.backend import PATH
from tests.support.engine import Rig
from tests.support.programs import built, output_of

TESTS = 145


async def test_h2spec(tmp_path: Path) -> None:
    report = tmp_path / "h2spec.xml"
    async with Rig(native) as rig:
        host, _, port = rig.address.rpartition(":")
        status, out = await output_of(
            *(built("h2spec"), "-h", host, "-p", port, "-P", PATH),
            *("-o", "2", "-j", str(report)),
        )
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    wrong = [f"{one.get('package')}: {one.get('classname')}" for one in cases if len(one)]
    assert wrong == [], out.decode()
    assert (status, len(cases)) == (0, TESTS)
