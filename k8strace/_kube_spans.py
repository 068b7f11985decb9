"""Traces shaped as a kube-apiserver's and its etcd's, made with the OpenTelemetry SDK.

Names, kinds, scopes, attributes and the form of the trees are those of kube-apiserver
1.36 and etcd 3.6. A request is a tree of `Node`s; times are laid out in it, not waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    set_span_in_context,
)

INTERNAL, SERVER, CLIENT = SpanKind.INTERNAL, SpanKind.SERVER, SpanKind.CLIENT

Attributes = dict[str, str | int]
Event = tuple[str, Attributes]

# service, name of the scope, its version
FILTERS = ("apiserver", "k8s.op/apiserver/pkg/endpoints/filterlatency", "")
COMPONENT = ("apiserver", "k8s.io/component-base/tracing", "")
HTTP = (
    "apiserver",
    "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp",
    "0.65.0",
)
_OTELGRPC = "go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
GRPC = ("apiserver", _OTELGRPC, "0.65.0")
ETCD = ("etcd", _OTELGRPC, "0.59.0")

_FILTERS = ("audit", "constrainedimpersonation", "priorityandfairness", "authorization")
_MICROSECOND = 1_000  # ns
_AGENTS = (
    "kubectl/v1.36.3 (linux/amd64) kubernetes/5f6d7a8",
    "kubelet/v1.36.3 (linux/amd64) kubernetes/5f6d7a8",
    "kube-controller-manager/v1.36.3 (linux/amd64) kubernetes/5f6d7a8",
)
_LOOPBACK = "kube-apiserver/v1.36.3 (linux/amd64) kubernetes/5f6d7a8"


class Node(NamedTuple):
    """A span to be made: `own` microseconds are its own, its children follow in turn."""

    scope: tuple[str, str, str]
    name: str
    kind: SpanKind
    attributes: Attributes | None = None
    children: Sequence[Node] = ()
    events: Sequence[Event] = ()
    failed: bool = False
    own: int = 80

    @property
    def duration(self) -> int:
        """Microseconds."""
        return self.own + sum(child.duration for child in self.children)


class Cluster:
    """A kube-apiserver and its etcd, each with a provider that hands to its processor."""

    def __init__(self, random: Random, processors: dict[str, SpanProcessor]) -> None:
        self._random = random
        identity = _letters(random, 26)
        instances: dict[str, dict[str, str]] = {
            "apiserver": {"service.instance.id": f"apiserver-{identity}"},
            "etcd": {},
        }
        self._providers: dict[str, TracerProvider] = {}
        for service, processor in processors.items():
            provider = TracerProvider(
                sampler=ALWAYS_ON,
                resource=Resource({"service.name": service, **instances[service]}),
                id_generator=_SeededIds(random),
                shutdown_on_exit=False,
            )
            provider.add_span_processor(processor)
            self._providers[service] = provider
        self._tracers: dict[tuple[str, str, str], Tracer] = {}

    def serve(self, end: int) -> int:
        """Make the traces of one request, ending at `end` (ns); returns their spans."""
        trees = self._random.choices(_REQUESTS, _WEIGHTS)[0](self._random)
        duration = max(tree.duration for tree in trees) * _MICROSECOND
        return sum(self._make(tree, None, end - duration) for tree in trees)

    def flush(self) -> None:
        for provider in self._providers.values():
            provider.force_flush()

    def shutdown(self) -> None:
        for provider in self._providers.values():
            provider.shutdown()

    def _make(self, node: Node, parent: Span | None, start: int) -> int:
        span = self._tracer(node.scope).start_span(
            node.name,
            context=set_span_in_context(parent) if parent else None,
            kind=node.kind,
            attributes=node.attributes,
            start_time=start,
        )
        count, now = 1, start + node.own * _MICROSECOND // 2
        for name, attributes in node.events:
            span.add_event(name, attributes, timestamp=now)
        for child in node.children:
            count += self._make(child, span, now)
            now += child.duration * _MICROSECOND
        if node.failed:
            span.set_status(StatusCode.ERROR)
        span.end(start + node.duration * _MICROSECOND)
        return count

    def _tracer(self, scope: tuple[str, str, str]) -> Tracer:
        tracer = self._tracers.get(scope)
        if tracer is None:
            service, name, version = scope
            tracer = self._providers[service].get_tracer(name, version)
            self._tracers[scope] = tracer
        return tracer


class _SeededIds(IdGenerator):
    def __init__(self, random: Random) -> None:
        self._random = random

    def generate_trace_id(self) -> int:
        return self._random.randrange(1, 1 << 128)

    def generate_span_id(self) -> int:
        return self._random.randrange(1, 1 << 64)


class _Call(NamedTuple):
    """What a request to the apiserver is about."""

    verb: str
    path: str
    template: str
    agent: str
    audit_id: str
    status: int = 200

    @property
    def common(self) -> Attributes:
        """What the apiserver's own spans say of the request."""
        return {"audit-id": self.audit_id, "url": self.path, "protocol": "HTTP/2.0"}


def _call(random: Random, verb: str, resource: str, *, named: bool, agent: str) -> _Call:
    namespace = random.choice(("default", "kube-system", "shop", "monitoring"))
    path = f"/api/v1/namespaces/{namespace}/{resource}"
    template = f"/api/v1/namespaces/{{:namespace}}/{resource}"
    if named:
        path += f"/{resource[:-1]}-{_letters(random, 5)}"
        template += "/{:name}"
    return _Call(verb, path, template, agent, _audit_id(random))


def _get(random: Random) -> list[Node]:
    call = _call(random, "GET", "configmaps", named=True, agent=random.choice(_AGENTS))
    *_, namespace, resource, name = call.path.split("/")
    key = f"/{resource}/{namespace}/{name}"
    cached = _cacher("cacher.Get", call, key, _rpc(random, "Range"))
    verb = _verb("Get", call, random, cached, _serialize(call, random))
    return _by_user(random, call, verb)


def _list(random: Random) -> list[Node]:
    call = _call(random, "GET", "pods", named=False, agent=random.choice(_AGENTS))
    stored: Attributes = {"audit-id": call.audit_id, "key": "/pods", "limit": 500}
    listed = Node(
        COMPONENT,
        "List(recursive=true) etcd3",
        INTERNAL,
        stored,
        (_rpc(random, "Range"),),
    )
    cached = _cacher("cacher.GetList", call, "/pods", listed)
    verb = _verb("List", call, random, cached, _serialize(call, random))
    return _by_user(random, call, verb)


def _create(random: Random) -> list[Node]:
    agent = random.choice(_AGENTS)
    call = _call(random, "POST", "configmaps", named=False, agent=agent)
    call = call._replace(status=201)
    about: Attributes = {
        "configuration": "policy.example.org",
        "webhook": "validate.policy.example.org",
        "resource": "configmaps",
        "subresource": "",
        "operation": "CREATE",
        "UID": _audit_id(random),
    }
    posted = _request("POST", "https://10.96.14.7:443/validate?timeout=5s", random)
    webhook = Node(
        COMPONENT,
        "Call validating webhook",
        INTERNAL,
        about,
        (posted,),
        (("Request completed", {}),),
    )
    stored = _stored("Create etcd3", call, "/configmaps", _rpc(random, "Txn"))
    verb = _verb("Create", call, random, webhook, stored, _serialize(call, random))
    return _by_user(random, call, verb)


def _update(random: Random) -> list[Node]:
    verb, name = random.choice((("PUT", "Update"), ("PATCH", "Patch")))
    call = _call(random, verb, "endpoints", named=True, agent=random.choice(_AGENTS))
    update = _guaranteed_update(random, call)
    return _by_user(random, call, _verb(name, call, random, update))


def _delete(random: Random) -> list[Node]:
    call = _call(random, "DELETE", "pods", named=True, agent=random.choice(_AGENTS))
    update = _guaranteed_update(random, call)
    return _by_user(random, call, _verb("Delete", call, random, update))


def _look_up(random: Random) -> list[Node]:
    """The apiserver asks itself for something that isn't there."""
    call = _call(random, "GET", "serviceaccounts", named=True, agent=_LOOPBACK)
    call = call._replace(status=404)
    cached = _cacher("cacher.Get", call, "/serviceaccounts", _rpc(random, "Range"))
    served = _served(random, call, _verb("Get", call, random, cached))
    url = f"https://[::1]:6443{call.path}"
    return [_authentication(), _request("GET", url, random, 404, served)]


def _probe(random: Random) -> list[Node]:
    path = random.choice(("/healthz", "/readyz", "/metrics"))
    call = _Call("GET", path, "", "kube-probe/1.36", _audit_id(random))
    return [_authentication(_served(random, call))]


def _unauthorized(random: Random) -> list[Node]:
    call = _call(random, "GET", "secrets", named=True, agent="curl/8.11.0")
    return [_authentication(_serialize(call, random))]


_REQUESTS: tuple[Callable[[Random], list[Node]], ...] = (
    *(_get, _list, _create, _update, _delete, _look_up, _probe, _unauthorized),
)
_WEIGHTS = (30, 15, 15, 20, 8, 6, 5, 1)


def _authentication(*children: Node) -> Node:
    return Node(FILTERS, "authentication", INTERNAL, children=children, own=30)


def _by_user(random: Random, call: _Call, handled: Node) -> list[Node]:
    """Only with an administrator's request does authentication share the trace."""
    served = _served(random, call, handled)
    if random.random() < 0.4:
        return [_authentication(served)]
    return [_authentication(), served]


def _served(random: Random, call: _Call, *handled: Node) -> Node:
    inner = handled
    for name in reversed(_FILTERS):
        inner = (Node(FILTERS, name, INTERNAL, children=inner, own=20),)
    attributes: Attributes = {
        "http.request.method": call.verb,
        "url.scheme": "https",
        "url.path": call.path,
        "http.target": call.path,
        "server.address": "10.0.0.2",
        "server.port": 6443,
        "network.peer.address": f"10.0.{random.randrange(8)}.{random.randrange(2, 250)}",
        "network.peer.port": random.randrange(30_000, 60_000),
        "network.protocol.version": "2.0",
        "user_agent.original": call.agent,
        "http.response.body.size": random.randrange(200, 20_000),
        "http.response.status_code": call.status,
        "audit-id": call.audit_id,
    }
    name = f"{call.verb} {call.template}".rstrip()
    return Node(HTTP, name, SERVER, attributes, inner)


def _verb(name: str, call: _Call, random: Random, *children: Node) -> Node:
    attributes: Attributes = {
        **call.common,
        "accept": "application/vnd.kubernetes.protobuf, */*",
        "client": f"10.0.{random.randrange(8)}.{random.randrange(2, 250)}",
        "api-group": "",
        "api-version": "v1",
        "namespace": call.path.split("/")[4],
        "resource": call.path.split("/")[5],
        "user-agent": call.agent,
        "verb": call.verb,
    }
    events: list[Event] = []
    if call.verb != "GET":
        length = random.randrange(300, 4_000)
        events = [
            ("About to store object in database", {}),
            ("Write to database call succeeded", {"len": length}),
        ]
    return Node(COMPONENT, name, INTERNAL, attributes, children, events)


def _serialize(call: _Call, random: Random) -> Node:
    attributes: Attributes = {
        **call.common,
        "method": call.verb,
        "mediaType": "application/vnd.kubernetes.protobuf",
        "encoder": '{"encodeGV":"v1","encoder":"protobuf","name":"versioning"}',
    }
    size = random.randrange(200, 20_000)
    writer = "responsewriter.outerWithCloseNotifyAndFlush"
    events: list[Event] = [
        ("About to start writing response", {"writer": writer, "size": size}),
        ("Write call succeeded", {}),
    ]
    return Node(COMPONENT, "SerializeObject", INTERNAL, attributes, events=events)


def _cacher(name: str, call: _Call, key: str, read: Node) -> Node:
    attributes: Attributes = {
        "audit-id": call.audit_id,
        "key": key,
        "resource-version": "",
    }
    return Node(COMPONENT, name, INTERNAL, attributes, (read,))


def _stored(name: str, call: _Call, key: str, *rpcs: Node) -> Node:
    attributes: Attributes = {
        "audit-id": call.audit_id,
        "key": key,
        "type": f"*core.{key.split('/')[1].rstrip('s').capitalize()}",
        "group": "",
        "resource": key.split("/")[1],
    }
    events: list[Event] = [
        ("Encode succeeded", {"len": 412}),
        ("TransformToStorage succeeded", {}),
        ("Txn call succeeded", {}),
    ]
    return Node(COMPONENT, name, INTERNAL, attributes, rpcs, events)


def _guaranteed_update(random: Random, call: _Call) -> Node:
    key = f"/{call.path.split('/')[5]}"
    rpcs = (_rpc(random, "Range"), _rpc(random, "Txn"))
    return _stored("GuaranteedUpdate etcd3", call, key, *rpcs)


def _rpc(random: Random, method: str) -> Node:
    """A call to etcd, with etcd's side of it."""
    name = f"etcdserverpb.KV/{method}"
    client: Attributes = {
        "rpc.system.name": "grpc",
        "rpc.method": name,
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": 2379,
    }
    server: Attributes = {
        "rpc.system": "grpc",
        "rpc.service": "etcdserverpb.KV",
        "rpc.method": method,
        "rpc.grpc.status_code": 0,
        "net.sock.peer.addr": "127.0.0.1",
        "net.sock.peer.port": random.randrange(30_000, 60_000),
    }
    sizes = (random.randrange(40, 2_000), random.randrange(40, 8_000))
    events: list[Event] = [
        (
            "message",
            {
                "rpc.message.type": kind,
                "rpc.message.id": 1,
                "rpc.message.uncompressed_size": size,
            },
        )
        for kind, size in zip(("SENT", "RECEIVED"), sizes, strict=True)
    ]
    own = random.randrange(100, 900)
    served = Node(ETCD, name, SERVER, server, events=events[::-1], own=own)
    return Node(GRPC, name, CLIENT, client, (served,), events, own=own // 2)


def _request(verb: str, url: str, random: Random, status: int = 200, *served: Node) -> Node:
    """A request that the apiserver makes; an error from status 400 up."""
    attributes: Attributes = {
        "http.request.method": verb,
        "url.full": url,
        "server.address": url.split("/")[2].rpartition(":")[0],
        "server.port": int(url.split("/")[2].rpartition(":")[2]),
        "network.protocol.version": "2.0",
        "http.response.status_code": status,
    }
    failed = status >= 400
    if failed:
        attributes["error.type"] = str(status)
    own = random.randrange(200, 3_000)
    return Node(HTTP, f"HTTP {verb}", CLIENT, attributes, served, failed=failed, own=own)


def _audit_id(random: Random) -> str:
    digits = f"{random.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _letters(random: Random, length: int) -> str:
    return "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=length))
