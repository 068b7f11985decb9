"""The configuration of tracing in Kubernetes' components, read and checked as they do it.

`TracingConfiguration` of apiserver.config.k8s.io (v1alpha1, v1beta1 and v1, which have the
same fields; --tracing-config-file of kube-apiserver), and the `tracing` stanza of the
kubelet's KubeletConfiguration (kubelet.config.k8s.io/v1beta1). The rules are those of
component-base, tracing/api/v1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import yaml

from k8strace.errors import K8sTraceError

GROUP = "apiserver.config.k8s.io"
VERSIONS = ("v1alpha1", "v1beta1", "v1")
KIND = "TracingConfiguration"
KUBELET_VERSION = "kubelet.config.k8s.io/v1beta1"
KUBELET_KIND = "KubeletConfiguration"
MILLION = 1_000_000

_API_VERSIONS = tuple(f"{GROUP}/{version}" for version in VERSIONS)
_SCHEMES = ("dns", "unix", "unix-abstract")
HTTP_PORT = "4318"
_ENDPOINTS = "write host:port, dns:///host:port, unix:///path or unix-abstract:///name"
# Go's YAML knows no numbers of base 60, and others of Python's are different in it.
_SCALARS = {
    "bool": r"(?:[yYnN]|yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE"
    r"|on|On|ON|off|Off|OFF)$",
    "int": r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|0|[1-9][0-9_]*)$",
    "float": r"(?:[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+|[0-9][0-9_]*\.[0-9_]*"
    r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$",
}
_INT32 = 2**31
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# Addresses in brackets, or a name; the port is what stands behind the last colon.
_HOST = re.compile(
    r"(?:\[[^]]*\]|(?!\[)(?:[A-Za-z0-9._~!$&'()*+,;=:<>\"%\[\]-]|[^\x00-\x7f])*?)(?::\d*)?"
)
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Problem(NamedTuple):
    """What is wrong with a file, and the paths of the fields that are at fault.

    `is_lenient`: a component that decodes leniently starts, and ignores these fields.
    """

    text: str
    fields: tuple[str, ...] = ()
    is_lenient: bool = False

    @property
    def strictly(self) -> str:
        """The text where decoding is strict."""
        return f"strict decoding error: {self.text}" if self.is_lenient else self.text


class TracingConfigurationError(K8sTraceError):
    """A configuration that a component does not take; `fields` are at fault."""

    def __init__(self, text: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.fields = fields


class TracingConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """Where a component's spans go, and how many traces it begins.

    `endpoint` is a gRPC name, None for localhost:4317; the connection is not encrypted,
    unless the environment names certificates. `sampling_rate_per_million` of traces are
    begun; with None or 0 the component only goes on with what its callers sampled.
    """

    endpoint: str | None = None
    sampling_rate_per_million: int | None = None

    def __post_init__(self) -> None:
        found = _invalid(self.endpoint, self.sampling_rate_per_million, "")
        if found:
            raise ValueError("; ".join(problem.text for problem in found))


class Examined(NamedTuple):
    """A file as a component reads it; `config` is None where it does not get that far.

    `has_tracing` is False of a kubelet's file without the stanza.
    """

    config: TracingConfiguration | None
    problems: list[Problem]
    has_tracing: bool = True


def read(path: Path | str) -> TracingConfiguration:
    """The file that --tracing-config-file names. Raises TracingConfigurationError."""
    try:
        return parse(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise TracingConfigurationError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise TracingConfigurationError(f"{path}: not UTF-8: {error}") from None


def parse(text: str) -> TracingConfiguration:
    """What such a file says, YAML or JSON. Raises TracingConfigurationError."""
    return _strict(examine(text)) or TracingConfiguration()


def parse_kubelet(text: str) -> TracingConfiguration | None:
    """The `tracing` of a KubeletConfiguration; None where it has none.

    The other fields are left to the kubelet. Raises TracingConfigurationError.
    """
    return _strict(examine_kubelet(text))


def _strict(examined: Examined) -> TracingConfiguration | None:
    if examined.problems:
        fields = [field for problem in examined.problems for field in problem.fields]
        text = "; ".join(problem.strictly for problem in examined.problems)
        raise TracingConfigurationError(text, tuple(fields))
    return examined.config


def examine(text: str) -> Examined:
    """A kube-apiserver's file, with all that is wrong with it."""
    try:
        values, problems = _load(text)
        _check_kind(values)
        found, more = _decode(values, "", {"apiVersion", "kind"})
    except _NotDecodedError as error:
        return Examined(None, [error.problem])
    return Examined(found, problems + more)


def examine_kubelet(text: str) -> Examined:
    """A kubelet's file, of which only `tracing` is looked at."""
    try:
        values, problems = _load(text)
        version, kind = values.get("apiVersion"), values.get("kind")
        if (version, kind) != (KUBELET_VERSION, KUBELET_KIND):
            raise _unknown_kind(kind, version, KUBELET_KIND, (KUBELET_VERSION,))
        if values.get("tracing") is None:
            return Examined(None, problems, has_tracing=False)
        found, more = _decode(values["tracing"], "tracing.", set())
    except _NotDecodedError as error:
        return Examined(None, [error.problem])
    return Examined(found, problems + more)


def unreachable(endpoint: str | None) -> str:
    """Why gRPC can't connect to an endpoint that Kubernetes takes, "" where it can.

    The component starts, and says so each time that it has spans.
    """
    if endpoint is None:
        return ""
    why = _of_target(endpoint)
    return f"endpoint: {json.dumps(endpoint)}: no connection, {why}" if why else ""


def _of_target(endpoint: str) -> str:
    """What is wrong with a target as grpc-go takes it apart."""
    scheme, _, rest = endpoint.partition(":")
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        return _of_address(endpoint)
    authority, _, name = (
        rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    )
    if scheme != "dns":
        if authority:
            return f"invalid authority: {authority}: write {scheme}:///{rest[2:]}"
        return "" if name.strip("/") else f"a path is missing: {_ENDPOINTS}"
    if authority and not name:
        return f"missing address: write {authority}"
    return _of_address(name.removeprefix("/"))


def _of_address(address: str) -> str:
    """What is wrong with `host:port`."""
    if not address:
        return "it is empty: leave it out for localhost:4317"
    if found := re.match(r"(ipv[46]):", address):
        rest = address[found.end() :]
        return f"{found[1]}: is a scheme that gRPC in Go does not have: write {rest}"
    host, mark, _ = re.split(r"([/?#]|$)", address, maxsplit=1)
    if mark:
        return f"a path is for HTTP, and this is gRPC: write {host}"
    user, at, place = host.rpartition("@")
    if at:
        return f"{user}@ is not part of an address: write {place}"
    if host.count(":") > 1 and not host.startswith("["):
        name, _, port = host.rpartition(":")
        return f"an IPv6 address stands in brackets: write [{name}]:{port}"
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, ""
    if not port:
        return f"a port is missing, so that gRPC asks 443: write {name}:4317"
    if port.isdecimal() and not 0 < int(port) < 65536:
        return f"{port} is not a port: write {name}:4317"
    if port == HTTP_PORT:
        return f"{port} is the port of OTLP over HTTP, and this is gRPC: write {name}:4317"
    if re.search(r"\.svc(\.|$)|\.cluster\.local\.?$", name, re.IGNORECASE):
        return (
            "it names a Service, which the resolver of the node, that of static pods with "
            "hostNetwork, does not know: write the Service's clusterIP, or localhost:4317"
        )
    return ""


class _NotDecodedError(Exception):
    """Decoding ends here, whether strict or not."""

    def __init__(self, text: str, *fields: str) -> None:
        super().__init__(text)
        self.problem = Problem(text, fields)


class _Loader(yaml.CSafeLoader):
    """YAML as sigs.k8s.io/yaml reads it: scalars are Go's; `twice` are keys set again."""

    bool_values: ClassVar = {**yaml.CSafeLoader.bool_values, "y": True, "n": False}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[tuple[str, int]] = []

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _NotDecodedError(f"line {line}: a key that is not a scalar")
            if key.value in seen:
                self.twice.append((key.value, line))
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_KEPT = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_Loader.yaml_implicit_resolvers = {
    first: [one for one in resolvers if one[0] in _KEPT]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern in _SCALARS.items():
    _firsts = list("yYnNtTfFoO" if _name == "bool" else "-+.0123456789")
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _firsts
    )


def _load(text: str) -> tuple[Mapping[str, Any], list[Problem]]:
    """The first document, or all of a text that is JSON, and keys that stand twice."""
    text = text.removeprefix("\ufeff")
    if text.lstrip().startswith("{"):
        return _load_json(text)
    loader = _Loader(text)
    try:
        found = loader.get_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise _NotDecodedError(f"it is not YAML: {where}{error.problem}") from None
    except (yaml.reader.ReaderError, ValueError, RecursionError) as error:
        raise _NotDecodedError(f"it is not YAML: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(found or {}, Mapping):
        raise _NotDecodedError(f"it is {type(found).__name__}, not a map")
    return found or {}, [_duplicate(key, f"line {line}: ") for key, line in loader.twice]


class _Float(float):
    """A number that JSON writes as a float, which Go takes for no integer."""


def _load_json(text: str) -> tuple[Mapping[str, Any], list[Problem]]:
    twice: list[Problem] = []

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [key for key, _ in pairs]
        again = {key for index, key in enumerate(names) if key in names[:index]}
        twice.extend(_duplicate(key, "") for key in sorted(again))
        return dict(pairs)

    def constant(text: str) -> None:
        raise ValueError(f"{text} is not a value")

    try:
        found: Mapping[str, Any] = json.loads(
            text, object_pairs_hook=made, parse_float=_Float, parse_constant=constant
        )
    except (ValueError, RecursionError) as error:
        raise _NotDecodedError(f"it begins with {{ and is not JSON: {error}") from None
    return found, twice


def _duplicate(key: str, where: str) -> Problem:
    return Problem(f'{where}duplicate field "{key}", the last one counts', (), True)


def _check_kind(values: Mapping[str, Any]) -> None:
    """kube-apiserver fills in what isn't said, and knows one kind in three versions."""
    version, kind = values.get("apiVersion") or "", values.get("kind") or ""
    if version not in ("", *_API_VERSIONS) or kind not in ("", KIND):
        raise _unknown_kind(kind, version, KIND, _API_VERSIONS)


def _unknown_kind(
    kind: object, version: object, right: str, versions: tuple[str, ...]
) -> _NotDecodedError:
    field = "kind" if version in versions else "apiVersion"
    return _NotDecodedError(
        f'no kind "{kind or ""}" is registered for version "{version or ""}": '
        f"it is kind {right} of apiVersion {', '.join(versions)}",
        field,
    )


def _decode(
    values: object, path: str, more: set[str]
) -> tuple[TracingConfiguration | None, list[Problem]]:
    """The fields at `path`, which may also have the names `more`."""
    if not isinstance(values, Mapping):
        field = path.removesuffix(".")
        raise _NotDecodedError(f"{field}: {_plain(values)} is not a map", field)
    endpoint, rate = values.get("endpoint"), values.get("samplingRatePerMillion")
    if endpoint is not None and not isinstance(endpoint, str):
        field = f"{path}endpoint"
        raise _NotDecodedError(
            f"{field}: {_plain(endpoint)} is not a string: quote it", field
        )
    if rate is not None:
        rate = _int32(rate, f"{path}samplingRatePerMillion")
    known = {"endpoint", "samplingRatePerMillion", *more}
    problems = [
        Problem(f'unknown field "{path}{key}"', (f"{path}{key}",), True)
        for key in sorted(map(str, values))
        if key not in known
    ]
    if invalid := _invalid(endpoint, rate, path):
        return None, problems + invalid
    return TracingConfiguration(endpoint=endpoint, sampling_rate_per_million=rate), problems


def _int32(value: object, field: str) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool | _Float)
    if is_number and math.isfinite(value) and value == int(value):  # type: ignore[arg-type,call-overload]
        whole = int(value)  # type: ignore[call-overload]
        if -_INT32 <= whole < _INT32:
            return int(whole)
    raise _NotDecodedError(f"{field}: {_plain(value)} is not an integer of 32 bits", field)


def _plain(value: object) -> str:
    """A value on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _invalid(endpoint: str | None, rate: int | None, path: str) -> list[Problem]:
    """What Kubernetes' validation refuses."""
    found = []
    if rate is not None and not 0 <= rate <= MILLION:
        field = f"{path}samplingRatePerMillion"
        why = "sampling rate must be positive"
        if rate > 0:
            why = "sampling rate per million must be less than or equal to one million"
        found.append(Problem(f"{field}: {rate}: {why}", (field,)))
    if endpoint is not None and (why := _of_url(endpoint)):
        field = f"{path}endpoint"
        found.append(Problem(f"{field}: {json.dumps(endpoint)}: {why}", (field,)))
    return found


def _of_url(endpoint: str) -> str:
    """Why Go's url.Parse, or the list of schemes, refuses an endpoint; "" if they don't."""
    url = endpoint if "//" in endpoint else f"dns://{endpoint}"
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in url):
        return f"a control character: {_ENDPOINTS}"
    found = _SCHEME.match(url)
    scheme, rest = (found[1].lower(), url[found.end() :]) if found else ("", url)
    if scheme not in _SCHEMES:
        return (
            f"unsupported scheme: {scheme}.  Options are none, dns, unix, or "
            f"unix-abstract.: {_ENDPOINTS}"
        )
    rest, _, fragment = rest.partition("#")
    rest, _, _ = rest.partition("?")
    if rest.startswith("//"):
        authority, _, rest = rest[2:].partition("/")
        host = authority.rpartition("@")[2]
        _, colon, port = host.rpartition(":")
        is_port = not colon or port.endswith("]") or not port.strip("0123456789")
        if not is_port or not _HOST.fullmatch(host):
            return f"{host!r} is not a host with a port that is a number: {_ENDPOINTS}"
        if escape := re.search(r"%(?!25|[89A-Fa-f][0-9A-Fa-f])", host):
            return f"an invalid escape at {host[escape.start() :]!r}: {_ENDPOINTS}"
    elif not rest.startswith("/"):
        return ""  # opaque, which Go does not look into
    if escape := _ESCAPE.search(f"{rest}#{fragment}"):
        return f"an invalid escape in {escape.string!r}: {_ENDPOINTS}"
    return ""
