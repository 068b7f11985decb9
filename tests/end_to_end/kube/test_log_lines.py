"""What docs/kubernetes.md quotes of components' logs, said by real ones."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from k8strace.kube.tracing_config import unreachable
from tests.end_to_end.kube.component import Component
from tests.end_to_end.kube.control_plane import ControlPlane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow, pytest.mark.timeout(180)]
PAGE = Path("docs/kubernetes.md").read_text()
QUOTED = {
    "kube-apiserver": re.findall(r"^I\d+ .*?(\"traces export: .*)$", PAGE, re.MULTILINE),
    "etcd": re.findall(r"^\d+/\S+ \S+ (traces export: .*)$", PAGE, re.MULTILINE),
}


@pytest.mark.parametrize(
    ("component", "endpoint"),
    [("kube-apiserver", "127.0.0.1:1"), ("etcd", "k8strace.observability.invalid:4317")],
)
async def test_where_there_is_no_gateway(
    component: str, endpoint: str, tmp_path: Path
) -> None:
    (quoted,) = QUOTED[component]
    async with ControlPlane(tmp_path / "plane", endpoint) as plane:
        (asked,) = [one for one in (plane.apiserver, plane.etcd) if one.name == component]
        await _says(asked, quoted.replace("127.0.0.1:4317", endpoint))


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("unix-abstract://otel", "invalid (non-empty) authority: otel"),
        ("dns://127.0.0.1:4317", "missing address"),
        ("127.0.0.1", "127.0.0.1:443: connect: connection refused"),
        ("127.0.0.1:1/v1/traces", "unknown port"),
        ("ipv4:127.0.0.1:1", "too many colons in address"),
    ],
)
async def test_an_endpoint_that_is_taken_and_leads_nowhere(
    endpoint: str, text: str, tmp_path: Path
) -> None:
    assert unreachable(endpoint)
    assert text.partition(":")[0] in PAGE
    async with ControlPlane(tmp_path / "plane", endpoint) as plane:
        await asyncio.gather(*(_says(one, text) for one in (plane.apiserver, plane.etcd)))


async def _says(component: Component, text: str) -> None:
    async with asyncio.timeout(60):  # it tries for 10 s
        while text not in component.log:
            component.assert_running()
            await asyncio.sleep(0.2)
