"""What clients of a kube-apiserver do, and what can go wrong with it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

from tests.end_to_end.kube import manifests
from tests.end_to_end.kube.callees import CONTEXT, GROUP_VERSION, TOO_LATE, Callees
from tests.end_to_end.kube.client import (
    ADMIN,
    ANONYMOUS,
    APPLY,
    JSON,
    JSON_PATCH,
    MERGE,
    MONITOR,
    NOBODY,
    STRANGER,
    STRATEGIC,
    USER,
    Answer,
    Client,
)
from tests.end_to_end.kube.control_plane import ControlPlane
from tests.end_to_end.kube.expectations import Sent
from tests.end_to_end.kube.manifests import config_map, thing
from tests.kube.test_propagation import BAD
from tests.support.ports import free_port

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
WIDGETS = "/apis/k8strace.test/v1/namespaces/default/widgets"
THINGS = f"/apis/{GROUP_VERSION}/namespaces/default/things"
# By name, path and status that the one who creates a ConfigMap gets.
VALIDATING = {
    "allow": ("/allow", 201),
    "deny": ("/deny", 403),
    "broken": ("/broken", 500),
    "ignored": ("/broken", 201),
    "slow": ("/slow", 500),
    "refused": ("/", 500),
    "callback": ("/callback", 201),
}
MUTATING = {"mutate": ("/mutate", 201)}


class Traffic:
    """Requests of `client`; `sent` has them all, with what they were answered."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.sent: list[Sent] = []

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        status: int = 200,
        user: str = ADMIN,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """A request that has to be answered with `status`."""
        headers = headers or {}
        answer = await self._client.request(
            method, path, body, user=user, content_type=content_type, headers=headers
        )
        assert answer.status == status, (user, method, path, answer)
        context = {name: headers[name] for name in CONTEXT if name in headers}
        self.sent.append(Sent(user, method, path, status, answer.audit_id, context))
        return answer

    async def prepare(self, plane: ControlPlane, callees: Callees) -> None:
        """Register what is called, and wait until it is."""
        client, authority = self._client, plane.authority.cert
        await client.apply(manifests.everything_for("devs"))
        await self._service_account("default")
        base = f"https://127.0.0.1:{callees.port}"
        for kind, hooks in (("Validating", VALIDATING), ("Mutating", MUTATING)):
            made = []
            for name, (path, _) in hooks.items():
                await client.apply(manifests.namespace(name))
                await self._service_account(name)
                url = base + path
                if name == "refused":
                    url = f"https://127.0.0.1:{free_port()}/"
                timeout = TOO_LATE if name == "slow" else 20
                ignored = name == "ignored"
                made.append(
                    manifests.webhook(
                        name, url, authority, ignored=ignored, timeout=timeout
                    )
                )
            await client.apply(manifests.webhooks(kind, "tests", *made))
        await client.apply(manifests.custom_resource(f"{base}/convert", authority))
        for one in manifests.aggregated(callees.port):
            await client.apply(one)
        async with asyncio.timeout(120):
            for path in (WIDGETS, THINGS):
                while (await client.request("GET", path)).status != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            # Both kinds of webhooks are heard of later than they are stored.
            for name, proof in (("deny", b"denied"), ("mutate", b"mutated")):
                while proof not in await self._tried(name):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)

    async def round(self, name: str) -> None:
        """One of everything, for a privileged user and one that is not."""
        for user in (ADMIN, USER):
            own = f"{name}-{user}"
            async with asyncio.TaskGroup() as group:
                group.create_task(self.watch(own, user))
                group.create_task(self.webhooks(own, user))
            await self.objects(own, user)
            await self.custom(own, user)
            await self.aggregated(user)
            await self.failures(user)

    async def objects(self, name: str, user: str) -> None:
        """Create, get, list, update, patch in all ways, delete."""
        path = f"{CONFIG_MAPS}/{name}"
        await self.ask("POST", CONFIG_MAPS, config_map(name), status=201, user=user)
        found = (await self.ask("GET", path, user=user)).json
        found["data"]["more"] = "put"
        await self.ask("PUT", path, found, user=user)
        await self.ask("PUT", path, found, user=user, status=409)
        patches: dict[str, Any] = {
            MERGE: {"data": {"merged": "yes"}},
            STRATEGIC: {"data": {"strategic": "yes"}},
            JSON_PATCH: [{"op": "add", "path": "/data/json", "value": "yes"}],
        }
        for content_type, patch in patches.items():
            await self.ask("PATCH", path, patch, user=user, content_type=content_type)
        apply = f"{path}?fieldManager=tests&force=true"
        await self.ask("PATCH", apply, config_map(name), user=user, content_type=APPLY)
        for query in ("", "?resourceVersion=0", "?limit=1", "?labelSelector=a%3Db"):
            await self.ask("GET", CONFIG_MAPS + query, user=user)
        await self.ask("POST", f"{CONFIG_MAPS}?dryRun=All", config_map("dry"), status=201)
        await self.ask("DELETE", path, user=user)
        await self.ask("DELETE", path, user=user, status=404)

    async def watch(self, name: str, user: str) -> None:
        """Watch for a second, in which something is created."""
        now = (await self.ask("GET", CONFIG_MAPS)).json["metadata"]["resourceVersion"]
        query = f"?watch=1&timeoutSeconds=1&resourceVersion={now}"
        path = f"{CONFIG_MAPS}/watched-{name}"
        await self.ask("POST", CONFIG_MAPS, config_map(f"watched-{name}"), status=201)
        events = await self.ask("GET", CONFIG_MAPS + query, user=user)
        assert f'"watched-{name}"'.encode() in events.body
        await self.ask("DELETE", path)

    async def webhooks(self, name: str, user: str) -> None:
        for hook, (_, status) in {**VALIDATING, **MUTATING}.items():
            path = f"/api/v1/namespaces/{hook}/configmaps"
            await self.ask("POST", path, config_map(name), user=user, status=status)

    async def custom(self, name: str, user: str) -> None:
        """A custom resource, read in the version that it is not stored in."""
        widget = thing("k8strace.test/v1", "Widget", name, spec={"size": 1})
        await self.ask("POST", WIDGETS, widget, user=user, status=201)
        other = WIDGETS.replace("/v1/", "/v1beta1/")
        await self.ask("GET", f"{other}/{name}", user=user)
        await self.ask("DELETE", f"{WIDGETS}/{name}", user=user)

    async def aggregated(self, user: str) -> None:
        await self.ask("GET", THINGS, user=user)
        await self.ask("GET", f"{THINGS}/broken", user=user, status=500)

    async def failures(self, user: str) -> None:
        """What is refused before it is stored, and by whom."""
        await self.ask("GET", CONFIG_MAPS, user=STRANGER, status=401)
        await self.ask("GET", CONFIG_MAPS, user=NOBODY, status=403)
        await self.ask("GET", CONFIG_MAPS, user=ANONYMOUS, status=403)
        await self.ask("GET", "/api/v1/namespaces/default/nothing", user=user, status=404)
        await self.ask("GET", "/apis/none.example/v1", user=user, status=404)
        await self.ask("POST", CONFIG_MAPS, b"{not json", user=user, status=400)
        await self.ask("POST", CONFIG_MAPS, config_map("Wrong_Name"), user=user, status=422)
        nowhere = "/api/v1/namespaces/nowhere/configmaps"
        await self.ask("POST", nowhere, config_map("lost"), user=user, status=404)
        text = "text/unknown"
        await self.ask("POST", CONFIG_MAPS, b"x", user=user, content_type=text, status=415)

    async def callers(self) -> None:
        """Headers of trace context, of all groups of callers and of all sorts."""
        create = "/api/v1/namespaces/callback/configmaps"
        for user in (ADMIN, MONITOR, USER, ANONYMOUS):
            for flags in ("00", "01"):
                for headers in (context(flags), context(flags, more=True)):
                    await self.ask("GET", "/version", user=user, headers=headers)
        for user in (ADMIN, USER):
            for flags in ("00", "01"):
                body = config_map(f"caller-{user}-{flags}")
                more = context(flags, more=True)
                await self.ask("POST", create, body, user=user, status=201, headers=more)
                await self.ask("GET", THINGS, user=user, headers=more)
            cc = {"traceparent": _traceparent("01", version="cc") + "-extra"}
            await self.ask("GET", "/version", user=user, headers=cc)
            for bad in BAD.values():
                if bad.isprintable():  # what HTTP can carry
                    await self.ask(
                        "GET", "/version", user=user, headers={"traceparent": bad}
                    )
        await self.ask("GET", CONFIG_MAPS, user=STRANGER, status=401, headers=context("01"))

    async def _tried(self, namespace: str) -> bytes:
        path = f"/api/v1/namespaces/{namespace}/configmaps?dryRun=All"
        return (await self._client.request("POST", path, config_map("probe"))).body

    async def _service_account(self, namespace: str) -> None:
        """The controller that makes them is no part of this control plane."""
        account = manifests.service_account()
        account["metadata"]["namespace"] = namespace
        await self._client.apply(account)


def _traceparent(flags: str, version: str = "00") -> str:
    return f"{version}-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{flags}"


def context(flags: str, *, more: bool = False) -> dict[str, str]:
    """Headers of a caller with a trace of its own; `more` is tracestate and baggage."""
    headers = {"traceparent": _traceparent(flags)}
    if more:
        headers |= {"tracestate": "vendor=abc,other=1", "baggage": "user=x,tier=gold"}
    return headers
