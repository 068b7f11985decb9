"""health_check says whether the gateway takes spans."""

import json

import aiohttp
import pytest

from k8strace.errors import ConfigError
from k8strace.extensions.health_check import HealthCheck
from tests.support.pipeline import configured, context


def extension(**values: object) -> HealthCheck:
    config = configured(HealthCheck, {"endpoint": "127.0.0.1:0", **values})
    return HealthCheck(config, context("extensions", "health_check"))


async def get(health: HealthCheck, path: str = "/") -> tuple[int, str]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{health.address}{path}") as response:
            return response.status, await response.text()


async def test_ready_only_between_start_and_drain() -> None:
    health = extension()
    await health.start()
    assert await get(health) == (503, '{"status":"Server not available"}')
    health.ready(True)
    status, text = await get(health)
    assert status == 200
    assert json.loads(text)["status"] == "Server available"
    assert (await get(health, "/healthz"))[0] == 200
    health.ready(False)
    assert (await get(health))[0] == 503
    await health.stop(0)
    await health.stop(0)


async def test_path_and_bodies() -> None:
    health = extension(path="/live", response_body={"healthy": "yes", "unhealthy": "no"})
    await health.start()
    assert await get(health, "/live") == (503, "no")
    health.ready(True)
    assert await get(health, "/live") == (200, "yes")
    assert (await get(health))[0] == 404
    await health.stop(0)


async def test_it_lives_before_it_is_ready_and_while_it_drains() -> None:
    health = extension()
    await health.start()
    alive = (200, '{"status":"Alive"}')
    assert await get(health, "/livez") == alive
    health.ready(True)
    assert await get(health, "/livez") == alive
    health.ready(False)
    assert await get(health, "/livez") == alive
    assert (await get(health, "/readyz"))[0] == 503
    assert (await get(health, "/livez/all"))[0] == 503
    await health.stop(0)


async def test_liveness_has_its_own_path() -> None:
    health = extension(path="/health/ready", liveness_path="/health/live")
    await health.start()
    assert (await get(health, "/health/live"))[0] == 200
    assert (await get(health, "/health/ready"))[0] == 503
    assert (await get(health, "/livez"))[0] == 404
    await health.stop(0)


async def test_a_path_of_a_collector_that_is_called_livez_is_readiness() -> None:
    health = extension(path="/livez")
    await health.start()
    assert (await get(health, "/livez"))[0] == 503
    await health.stop(0)


async def test_stop_without_start() -> None:
    await extension().stop(0)


@pytest.mark.parametrize(
    "values",
    [
        {"endpoint": "13133"},
        {"path": "live"},
        {"paht": "/"},
        {"liveness_path": "livez"},
    ],
)
def test_mistakes(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(HealthCheck, values)
    assert next(iter(values)) in str(caught.value)
