"""A real control plane on loopback: an etcd and a kube-apiserver that send their spans."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from k8strace.kube.component_files import Request, etcd, kube_apiserver
from tests.end_to_end.kube import binaries
from tests.end_to_end.kube.client import GROUPS, Client
from tests.end_to_end.kube.component import Component
from tests.support.certificates import LOCAL, Authority, Pair
from tests.support.gateway import Samples
from tests.support.ports import free_port

MILLION = 1_000_000
AUDIT_POLICY = (
    '{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}'
)


class ControlPlane:
    """An etcd and a kube-apiserver in `folder`; async context manager, entered when ready.

    Spans go to `endpoint`; None leaves tracing off. Both sample `sampling` of a million
    traces and have `env` in addition to this process's environment: `OTEL_BSP_…` and the
    like. Users are those of `client.GROUPS`, authorized by RBAC; `authority` is the
    cluster's, which signs what webhooks serve with. Tests are skipped where the binaries
    are not built.
    """

    def __init__(
        self,
        folder: Path,
        endpoint: str | None = None,
        *,
        sampling: int = MILLION,
        env: Mapping[str, str] | None = None,
    ) -> None:
        found = binaries.built()
        if found is None:
            pytest.skip("kube-apiserver and etcd are not built: `make kube` does it")
        self._binaries = found
        self._folder = folder
        self._endpoint = endpoint
        self._sampling = sampling
        self._port, self._etcd_port, self._peer_port = (free_port() for _ in range(3))
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(folder, "cluster")
        self.url = f"https://127.0.0.1:{self._port}"
        self.etcd_url = f"http://127.0.0.1:{self._etcd_port}"
        self.etcd = Component("etcd", self._etcd(), folder / "etcd.log", env or {})
        self.apiserver = Component(
            "kube-apiserver", self._apiserver(), folder / "kube-apiserver.log", env or {}
        )

    async def __aenter__(self) -> ControlPlane:
        try:
            await self.etcd.start()
            await self._ready(self.etcd, self.etcd_url + "/health")
            await self.apiserver.start()
            async with self.client() as client:
                await self._serving(client)
        except BaseException:
            await self._kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._kill()

    def client(self) -> Client:
        return Client(self.url, self.authority.cert)

    def serving_pair(self) -> Pair:
        """A certificate for a webhook on loopback."""
        return self.authority.issue("/CN=webhook")

    async def stop(self) -> dict[str, float]:
        """End both; returns how many calls etcd has answered by itself, by method.

        The kube-apiserver is first: when it is gone, etcd's count is final.
        """
        await self.apiserver.stop()
        async with aiohttp.ClientSession() as session:
            async with session.get(self.etcd_url + "/metrics") as response:
                text = await response.text()
        await self.etcd.stop()
        calls: dict[str, float] = {}
        for sample in Samples(text).samples:
            if sample.name == "grpc_server_handled_total":
                labels = sample.labels
                name = f"{labels['grpc_service']}/{labels['grpc_method']}"
                calls[name] = calls.get(name, 0) + sample.value
        return {name: count for name, count in calls.items() if count}

    async def _kill(self) -> None:
        await self.apiserver.kill()
        await self.etcd.kill()

    async def _serving(self, client: Client, timeout: float = 180.0) -> None:
        """Until it is ready, and has made the namespace that it makes some time later."""
        async with asyncio.timeout(timeout):
            for path in ("/readyz", "/api/v1/namespaces/default"):
                while not await self._answers(client, path):
                    self.apiserver.assert_running()
                    await asyncio.sleep(0.1)

    async def _answers(self, client: Client, path: str) -> bool:
        try:
            return (await client.request("GET", path)).status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def _ready(self, component: Component, url: str, timeout: float = 60.0) -> None:
        async with asyncio.timeout(timeout), aiohttp.ClientSession() as session:
            while True:
                component.assert_running()
                try:
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(0.1)

    def _etcd(self) -> list[str]:
        peer = f"http://127.0.0.1:{self._peer_port}"
        command = [str(self._binaries.etcd), "--name=m1", "--unsafe-no-fsync"]
        flags = {
            "data-dir": str(self._folder / "etcd"),
            "listen-client-urls": self.etcd_url,
            "advertise-client-urls": self.etcd_url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"m1={peer}",
        }
        if self._endpoint is not None:
            version = _minor(binaries.etcd_version())
            text = etcd(Request(version, self._endpoint, self._sampling))
            command += [line for line in text.splitlines() if line.startswith("--")]
            command.append("--distributed-tracing-instance-id=m1")
        return command + [f"--{name}={value}" for name, value in flags.items()]

    def _apiserver(self) -> list[str]:
        serving = self.authority.issue("/CN=kube-apiserver", names=f"{LOCAL},IP:10.96.0.1")
        accounts = self.authority.issue("/CN=service-accounts", names="")
        front = Authority(self._folder, "front-proxy")
        proxy = front.issue("/CN=front-proxy-client", names="")
        tokens = "".join(
            f'{user}-token,{user},{user},"{group}"\n' for user, group in GROUPS.items()
        )
        flags: dict[str, object] = {
            "etcd-servers": self.etcd_url,
            "bind-address": "127.0.0.1",
            # It refuses to tell others of a loopback address.
            "advertise-address": "192.0.2.1",
            "endpoint-reconciler-type": "none",
            "secure-port": self._port,
            "tls-cert-file": serving.cert,
            "tls-private-key-file": serving.key,
            "client-ca-file": self.authority.cert,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": accounts.cert,
            "service-account-signing-key-file": accounts.key,
            "service-cluster-ip-range": "10.96.0.0/16",
            "token-auth-file": self._file("tokens.csv", tokens),
            "authorization-mode": "RBAC",
            "proxy-client-cert-file": proxy.cert,
            "proxy-client-key-file": proxy.key,
            "requestheader-client-ca-file": front.cert,
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "audit-policy-file": self._file("audit-policy.yaml", AUDIT_POLICY),
            "audit-log-path": self._folder / "audit.log",
        }
        if self._endpoint is not None:
            version = _minor(binaries.kubernetes_version())
            text = kube_apiserver(Request(version, self._endpoint, self._sampling))
            flags["tracing-config-file"] = self._file("tracing.yaml", text)
        command = [str(self._binaries.kube_apiserver)]
        return command + [f"--{name}={value}" for name, value in flags.items()]

    def _file(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text)
        return path


def _minor(version: str) -> tuple[int, int]:
    """v1.36.3 is 1.36."""
    major, minor, _ = version.removeprefix("v").split(".")
    return int(major), int(minor)
