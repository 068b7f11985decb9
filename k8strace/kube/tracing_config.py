"""The configuration of tracing in Kubernetes' components, read and checked as they do it.

`TracingConfiguration` of apiserver.config.k8s.io (v1alpha1, v1beta1 and v1, which have the
same fields; --tracing-config-file of kube-apiserver), and the `tracing` stanza of the
kubelet's KubeletConfiguration (kubelet.config.k8s.io/v1beta1). Both are decoded strictly.
What is wrong is said in Kubernetes' own words (component-base, tracing/api/v1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import yaml

from k8strace.errors import K8sTraceError
from k8strace.kube import _go_json
from k8strace.kube._go_url import GoURLError, quoted, scheme_of

GROUP = "apiserver.config.k8s.io"
VERSIONS = ("v1alpha1", "v1beta1", "v1")
KIND = "TracingConfiguration"
KUBELET_VERSION = "kubelet.config.k8s.io/v1beta1"
KUBELET_KIND = "KubeletConfiguration"
MILLION = 1_000_000

_AUTH_KINDS = ("AuthenticationConfiguration", "AuthorizationConfiguration")
# Files of kube-apiserver's other flags, which it knows as such.
_OTHER_KINDS = {
    "v1alpha1": _AUTH_KINDS,
    "v1beta1": _AUTH_KINDS,
    "v1": (*_AUTH_KINDS, "AdmissionConfiguration", "EncryptionConfiguration"),
}
_API_VERSIONS = tuple(f"{GROUP}/{version}" for version in VERSIONS)
_SCHEMES = ("dns", "unix", "unix-abstract")
_NAMING = "https://github.com/grpc/grpc/blob/master/doc/naming.md"
_HEAD = (
    r'struct { APIVersion string "json:\"apiVersion,omitempty\""; '
    r'Kind string "json:\"kind,omitempty\"" }'
)
# Go's YAML knows no numbers of base 60, and others of Python's are different in it.
_SCALARS = {
    "bool": r"(?:[yYnN]|yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE"
    r"|on|On|ON|off|Off|OFF)$",
    "int": r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|0|[1-9][0-9_]*)$",
    "float": r"(?:[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+|[0-9][0-9_]*\.[0-9_]*"
    r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$",
}
_INT32 = 2**31


class TracingConfigurationError(K8sTraceError):
    """What Kubernetes would say of the configuration.

    `fields` are the paths of those that are at fault, as they stand in the file.
    """

    def __init__(self, text: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.fields = fields


class TracingConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """Where a component's spans go, and how many traces it begins.

    `endpoint` is a gRPC name, None for localhost:4317; the connection is not encrypted.
    `sampling_rate_per_million` of traces are begun; with None or 0 the component only goes
    on with what its callers sampled.
    """

    endpoint: str | None = None
    sampling_rate_per_million: int | None = None

    def __post_init__(self) -> None:
        if problems := _problems(self.endpoint, self.sampling_rate_per_million, ""):
            raise ValueError("; ".join(problems))


def read(path: Path | str) -> TracingConfiguration:
    """The file that --tracing-config-file names. Raises TracingConfigurationError."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise TracingConfigurationError(
            "failed to read tracing config: unable to read tracing configuration from "
            f"{quoted(str(path))}: open {path}: {why}"
        ) from None
    except UnicodeDecodeError as error:
        raise TracingConfigurationError(
            f"failed to read tracing config: {path} is not UTF-8: {error}"
        ) from None
    return parse(text)


def parse(text: str) -> TracingConfiguration:
    """What such a file says, YAML or JSON. Raises TracingConfigurationError."""
    try:
        values = _load(text)
        if values is not None:
            _check_kind(values)
        found = _decode(values or {}, "TracingConfiguration.TracingConfiguration.", "")
    except _DecodingError as error:
        raise TracingConfigurationError(
            "failed to read tracing config: unable to decode tracing configuration data: "
            f"{error}",
            error.fields,
        ) from None
    return _checked(found, "", "failed to validate tracing configuration: ")


def parse_kubelet(text: str) -> TracingConfiguration | None:
    """The `tracing` of a KubeletConfiguration; None where it has none.

    The other fields are left to the kubelet. Raises TracingConfigurationError.
    """
    prefix = "failed to load kubelet config file: "
    try:
        values = _load(text) or {}
        version, kind = values.get("apiVersion"), values.get("kind")
        if (version, kind) != (KUBELET_VERSION, KUBELET_KIND):
            raise _unknown_kind(str(kind or ""), str(version or ""))
        tracing = values.get("tracing")
        if tracing is None:
            return None
        if not isinstance(tracing, Mapping):
            raise _mismatch(
                tracing,
                "struct field KubeletConfiguration.tracing",
                "v1.TracingConfiguration",
                "tracing",
            )
        found = _decode(tracing, "TracingConfiguration.tracing.", "tracing.")
    except _DecodingError as error:
        raise TracingConfigurationError(prefix + str(error), error.fields) from None
    return _checked(found, "tracing.", "failed to validate kubelet configuration: ")


def unreachable(endpoint: str | None) -> str:
    """Why gRPC can't connect to an endpoint that Kubernetes takes, "" where it can.

    The component starts, and says so each time that it has spans.
    """
    scheme, _, rest = (endpoint or "").partition("://")
    authority, _, name = rest.partition("/")
    scheme = scheme.lower()
    if scheme not in _SCHEMES or not authority or (scheme == "dns" and name):
        return ""
    why = "missing address" if scheme == "dns" else f"invalid authority: {authority}"
    right = authority if scheme == "dns" else f"{scheme}:///{rest}"
    return f"endpoint: {quoted(endpoint or '')}: no connection, {why}: write {right}"


class _DecodingError(Exception):
    def __init__(self, text: str, *fields: str) -> None:
        super().__init__(text)
        self.fields = fields


class _Loader(yaml.CSafeLoader):
    """YAML as sigs.k8s.io/yaml reads it: keys stand once, scalars are Go's."""

    bool_values: ClassVar = {**yaml.CSafeLoader.bool_values, "y": True, "n": False}

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                found = _go_syntax(self.construct_object(key, deep=True))
                raise _DecodingError(f"yaml: invalid map key: {found}")
            if key.value in seen:
                raise _DecodingError(
                    "strict decoding error: yaml: unmarshal errors:\n"
                    f"  line {key.start_mark.line + 1}: key {quoted(key.value)} "
                    "already set in map"
                )
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


def _load(text: str) -> Mapping[str, Any] | None:
    """The first document, or all of the text where it is JSON; None where it is empty."""
    if _go_json.is_json(text):
        return _load_json(text)
    loader = _Loader(text.removeprefix("\ufeff"))
    try:
        found = loader.get_data()
    except yaml.MarkedYAMLError as error:
        raise _DecodingError(_yaml_error(error)) from None
    except yaml.reader.ReaderError as error:
        raise _DecodingError(f"yaml: {error.reason}") from None
    except (ValueError, RecursionError) as error:  # of PyYAML's own making
        raise _DecodingError(f"yaml: {error}") from None
    finally:
        loader.dispose()
    if found is None or isinstance(found, Mapping):
        return found
    raise _no_kind(found, f"value of type {_HEAD}")


def _load_json(text: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = _go_json.load(text)
    except _go_json.GoJSONError as error:
        raise _DecodingError(
            f"couldn't get version/kind; json parse error: {error}"
        ) from None
    except RecursionError as error:
        raise _DecodingError(f"couldn't get version/kind; {error}") from None
    return found


def _go_syntax(value: object) -> str:
    """A value as Go's `%#v` writes what yaml.v2 has read."""
    match value:
        case dict():
            inside = (f"{_go_syntax(k)}:{_go_syntax(v)}" for k, v in value.items())
            return f"map[interface {{}}]interface {{}}{{{', '.join(inside)}}}"
        case list():
            return f"[]interface {{}}{{{', '.join(map(_go_syntax, value))}}}"
        case None:
            return "interface {}(nil)"
        case bool():
            return str(value).lower()
        case str():
            return quoted(value)
        case _:
            return str(value)


def _yaml_error(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = 0 if mark is None else mark.line
    if isinstance(error, yaml.scanner.ScannerError):
        line += 1
    where = f"line {line}: " if line else ""
    return f"yaml: {where}{error.problem}"


def _check_kind(values: Mapping[str, Any]) -> None:
    """Kubernetes fills in what isn't said, and knows one kind in three versions."""
    for field in ("apiVersion", "kind"):
        if not isinstance(values.get(field) or "", str):
            where = f"struct field .{field} of type string"
            raise _no_kind(values[field], where, field)
    version, kind = values.get("apiVersion") or "", values.get("kind") or ""
    if version.count("/") > 1:
        raise _DecodingError(f"unexpected GroupVersion string: {version}", "apiVersion")
    group, _, name = version.partition("/")
    if group == GROUP and kind in _OTHER_KINDS.get(name, ()):
        raise _DecodingError(
            f"converting ({name}.{kind}) to (apiserver.{KIND}): unknown conversion", "kind"
        )
    if version not in ("", *_API_VERSIONS) or kind not in ("", KIND):
        raise _unknown_kind(kind, version)


def _unknown_kind(kind: str, version: str) -> _DecodingError:
    return _DecodingError(
        f"no kind {quoted(kind)} is registered for version {quoted(version)} in scheme "
        '"pkg/runtime/scheme.go:111"',
        "kind" if version in (*_API_VERSIONS, KUBELET_VERSION) else "apiVersion",
    )


def _no_kind(value: object, where: str, *fields: str) -> _DecodingError:
    return _DecodingError(
        "couldn't get version/kind; json parse error: json: cannot unmarshal "
        f"{_json_type(value)} into Go {where}",
        *fields,
    )


def _decode(values: Mapping[str, Any], where: str, path: str) -> tuple[Any, Any]:
    """Endpoint and rate, of the right types; `path` is that of the fields in YAML."""
    endpoint, rate = values.get("endpoint"), values.get("samplingRatePerMillion")
    for value in (endpoint, rate):
        if isinstance(value, float) and not math.isfinite(value):
            sign = "+Inf" if value > 0 else "-Inf" if value < 0 else "NaN"
            raise _DecodingError(f"json: unsupported value: {sign}")
    if endpoint is not None and not isinstance(endpoint, str):
        target = f"struct field {where}endpoint"
        raise _mismatch(endpoint, target, "string", f"{path}endpoint")
    if rate is not None:
        target = f"struct field {where}samplingRatePerMillion"
        field = f"{path}samplingRatePerMillion"
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise _mismatch(rate, target, "int32", field)
        if (
            isinstance(rate, _go_json.Literal)
            or rate != int(rate)
            or not -_INT32 <= rate < _INT32
        ):
            raise _DecodingError(
                f"json: cannot unmarshal number {_number(rate)} into Go {target} "
                "of type int32",
                field,
            )
        rate = int(rate)
    known = {"endpoint", "samplingRatePerMillion"}
    if not path:
        known |= {"apiVersion", "kind"}
    if wrong := _wrong_keys(values, known):
        text = ", ".join(f"{why} field {quoted(path + key)}" for key, why in wrong.items())
        raise _DecodingError(
            f"strict decoding error: {text}", *(path + key for key in wrong)
        )
    return endpoint, rate


def _wrong_keys(values: Mapping[str, Any], known: set[str]) -> dict[str, str]:
    """Those that Kubernetes does not take, and why: of JSON as written, of YAML sorted."""
    if isinstance(values, _go_json.Object):
        written = list(values.written)
    else:
        written = sorted(map(str, values))
    found: dict[str, str] = {}
    for index, key in enumerate(written):
        if key not in known:
            found[key] = "unknown"
        elif key in written[:index]:
            found[key] = "duplicate"
    return found


def _mismatch(value: object, where: str, wanted: str, field: str) -> _DecodingError:
    return _DecodingError(
        f"json: cannot unmarshal {_json_type(value)} into Go {where} of type {wanted}",
        field,
    )


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, Mapping):
        return "object"
    return "array" if isinstance(value, list) else "string"


def _number(value: float) -> str:
    """As it stands in JSON, or in the JSON that Kubernetes makes of YAML."""
    if isinstance(value, _go_json.Literal):
        return value.text
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return str(value)
    return format(float(value), ".0f") if value == int(value) else repr(value)


def _checked(found: tuple[Any, Any], path: str, prefix: str) -> TracingConfiguration:
    endpoint, rate = found
    if problems := _problems(endpoint, rate, path):
        text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        fields = tuple(problem.partition(":")[0] for problem in problems)
        raise TracingConfigurationError(prefix + text, fields)
    return TracingConfiguration(endpoint=endpoint, sampling_rate_per_million=rate)


def _problems(endpoint: str | None, rate: int | None, path: str) -> list[str]:
    """What Kubernetes' ValidateTracingConfiguration finds."""
    found = []
    if rate is not None and not 0 <= rate <= MILLION:
        why = "sampling rate must be positive"
        if rate > 0:
            why = "sampling rate per million must be less than or equal to one million"
        found.append(f"{path}samplingRatePerMillion: Invalid value: {rate}: {why}")
    if endpoint is not None and (why := _endpoint_problem(endpoint := _url(endpoint))):
        found.append(f"{path}endpoint: Invalid value: {quoted(endpoint)}: {why}")
    return found


def _url(endpoint: str) -> str:
    return endpoint if "//" in endpoint else f"dns://{endpoint}"


def _endpoint_problem(url: str) -> str:
    try:
        scheme = scheme_of(url)
    except GoURLError as error:
        return str(error)
    if scheme in _SCHEMES:
        return ""
    return (
        f"unsupported scheme: {scheme}.  Options are none, dns, unix, or unix-abstract.  "
        f"See {_NAMING}"
    )
