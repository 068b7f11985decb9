"""One request in ten is sampled, in whole traces; who may decide otherwise, does."""

from __future__ import annotations

import asyncio
from math import sqrt
from pathlib import Path

import pytest

from tests.end_to_end.kube import manifests
from tests.end_to_end.kube.client import ADMIN, USER
from tests.end_to_end.kube.control_plane import MILLION, ControlPlane
from tests.end_to_end.kube.expectations import (
    Evidence,
    callers_are_parents_if_privileged_and_links_if_not,
    calls_to_etcd_are_served_by_etcd,
    only_known_parents_are_missing,
    requests_pass_the_filters,
    requests_to_itself_are_served_inside_their_own_trace,
)
from tests.end_to_end.kube.run import LARGE_QUEUE, gateway_for
from tests.end_to_end.kube.spans import read
from tests.end_to_end.kube.traffic import CONFIG_MAPS, Traffic, context
from tests.support.backend import Backend

pytestmark = [pytest.mark.control_plane, pytest.mark.slow, pytest.mark.timeout(600)]
RATE = 100_000  # per million
REQUESTS = 5000
CALLERS = 100
SIGMAS = 7  # one run in a hundred billion is further off by chance
CLIENTS = 8


async def test_the_sampling_rate_is_kept(tmp_path: Path, tables: list[str]) -> None:
    async with Backend() as backend, gateway_for(backend, tmp_path) as gateway:
        endpoint = await gateway.address("grpc")
        folder = tmp_path / "plane"
        async with ControlPlane(folder, endpoint, sampling=RATE, env=LARGE_QUEUE) as plane:
            async with plane.client() as client:
                await client.apply(manifests.everything_for("devs"))
                await client.apply(manifests.config_map("one"))
                plain, callers = Traffic(client), Traffic(client)
                await asyncio.gather(*(_read(plain) for _ in range(CLIENTS)))
                for _ in range(CALLERS):
                    for user in (ADMIN, USER):
                        for flags in ("00", "01"):
                            await _ask(callers, user, context(flags))
            await plane.stop()
        samples = await gateway.at_rest()
        assert await gateway.stop() == 0
    exported = sum(one.exports.sent for one in (plane.apiserver, plane.etcd))
    assert samples.sum("otelcol_receiver_accepted_spans_total") == exported
    assert backend.spans == len(backend.ids) == exported

    spans = read(backend.requests)
    sampled = sum(len(spans.served(one.audit_id)) for one in plain.sent)
    share = RATE / MILLION
    expected, deviation = REQUESTS * share, sqrt(REQUESTS * share * (1 - share))
    tables.append(
        f"Sampling at {RATE:,} per million: {sampled} of {REQUESTS:,} requests "
        f"({sampled / REQUESTS:.2%}); {expected:.0f} ± {deviation:.1f} are expected, "
        f"{abs(sampled - expected) / deviation:.1f} standard deviations away\n"
    )
    assert len(plain.sent) == REQUESTS
    assert abs(sampled - expected) < SIGMAS * deviation

    # A privileged caller's flag decides; of others it doesn't.
    kept = {
        (user, flags): sum(
            len(spans.served(one.audit_id))
            for one in callers.sent
            if one.user == user and one.headers["traceparent"].endswith(flags)
        )
        for user in (ADMIN, USER)
        for flags in ("00", "01")
    }
    assert (kept[ADMIN, "00"], kept[ADMIN, "01"]) == (0, CALLERS)
    # A tenth of so few is never half of them; all would be, if it did.
    assert max(kept[USER, "00"], kept[USER, "01"]) < CALLERS / 2

    own = plane.url.removeprefix("https://")
    evidence = Evidence(spans, tuple(callers.sent), own)
    for expectation in (
        callers_are_parents_if_privileged_and_links_if_not,
        requests_pass_the_filters,
        calls_to_etcd_are_served_by_etcd,
        requests_to_itself_are_served_inside_their_own_trace,
        only_known_parents_are_missing,
    ):
        expectation(evidence)


async def test_at_a_rate_of_zero_only_callers_begin_traces(tmp_path: Path) -> None:
    """And of them only those who are believed."""
    async with Backend() as backend, gateway_for(backend, tmp_path) as gateway:
        endpoint = await gateway.address("grpc")
        async with ControlPlane(tmp_path / "plane", endpoint, sampling=0) as plane:
            async with plane.client() as client:
                await client.apply(manifests.everything_for("devs"))
                await client.apply(manifests.config_map("one"))
                traffic = Traffic(client)
                for user in (ADMIN, USER):
                    for flags in ("00", "01"):
                        await _ask(traffic, user, context(flags))
                    await _ask(traffic, user, {})
            await plane.stop()
        await gateway.at_rest()
        assert await gateway.stop() == 0
    spans = read(backend.requests)
    (begun,) = {span.trace for span in spans}
    (one,) = (one for one in traffic.sent if spans.served(one.audit_id))
    assert one.user == ADMIN
    assert one.headers["traceparent"].split("-")[1::2] == [begun, "01"]
    assert {span.service for span in spans} == {"apiserver", "etcd"}


async def _read(traffic: Traffic) -> None:
    """A request after the other, until all of them are made."""
    for _ in range(REQUESTS // CLIENTS):
        await _ask(traffic, USER, {})


async def _ask(traffic: Traffic, user: str, headers: dict[str, str]) -> None:
    """A read that goes as far as etcd."""
    await traffic.ask("GET", f"{CONFIG_MAPS}/one", user=user, headers=headers)
