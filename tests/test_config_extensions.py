"""`auth` names extensions that are there, run, and can do what they are asked for."""

from __future__ import annotations

import re

import pytest

from k8strace.config import load, render
from k8strace.errors import ConfigError

HEAD = """
extensions:
  bearertokenauth: {token: hunter2}
  bearertokenauth/other: {token: hunter2}
  health_check:
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load([f"yaml:{HEAD}{text}"])
    return caught.value.problems


def pipeline(extensions: str = "bearertokenauth") -> str:
    return (
        f"service: {{extensions: [{extensions}],"
        " pipelines: {traces: {receivers: [otlp], exporters: [otlp]}}}\n"
    )


def test_what_is_right() -> None:
    load(
        [
            f"""yaml:{HEAD}
receivers:
  otlp:
    protocols:
      grpc: {{auth: {{authenticator: bearertokenauth}}}}
      http:
        auth: {{authenticator: bearertokenauth/other, request_params: [authorization]}}
  otlp/unused: {{protocols: {{grpc: {{auth: {{authenticator: bearertokenauth/other}}}}}}}}
exporters:
  otlp: {{endpoint: "a:1", auth: {{authenticator: bearertokenauth}}}}
{pipeline("bearertokenauth, bearertokenauth/other")}"""
        ]
    )


def test_mistakes_have_their_lines() -> None:
    found = problems(
        """
receivers:
  otlp:
    protocols:
      grpc:
        auth:
          authenticator: bearer-tokenauth
      http: {auth: {authenticator: health_check}}
  otlp/unused: {protocols: {grpc: {auth: {authenticator: bearertokenauth/other}}}}
exporters:
  otlp:
    endpoint: a:1
    auth: {authenticator: bearertokenauth/other}
  otlp/none:
    endpoint: a:1
    auth: {}
"""
        + pipeline()
    )
    assert [one.split(": ", 1)[1] for one in found] == [
        "receivers::otlp::protocols::grpc::auth::authenticator: references extension "
        '"bearer-tokenauth" which is not configured; did you mean bearertokenauth?',
        "receivers::otlp::protocols::http::auth::authenticator: "
        'extension "health_check" cannot authenticate the callers of a server',
        "exporters::otlp::auth::authenticator: "
        'references extension "bearertokenauth/other": add it to service::extensions',
        "exporters::otlp/none::auth::authenticator: is missing",
    ]
    lines = [re.search(r":(\d+): ", one) for one in found]
    assert [one and one[1] for one in lines] == ["12", "13", "18", "21"]


def test_middlewares_are_extensions_that_can_be_some() -> None:
    found = problems(
        """
  memory_limiter: {check_interval: 1s, limit_mib: 100}
receivers:
  otlp:
    protocols:
      grpc:
        middlewares:
          - {id: memory_limiter}
          - {id: health_check}
      http: {middlewares: [{id: memory-limiter}]}
  otlp/none: {protocols: {http: {middlewares: [{}]}}}
exporters: {otlp: {endpoint: "a:1"}}
"""
        + pipeline("health_check")
    )
    protocols = "receivers::otlp::protocols"
    assert [one.split(": ", 1)[1] for one in found] == [
        f'{protocols}::grpc::middlewares[0]::id: references extension "memory_limiter": '
        "add it to service::extensions",
        f'{protocols}::grpc::middlewares[1]::id: extension "health_check" is no middleware '
        "of servers",
        f'{protocols}::http::middlewares[0]::id: references extension "memory-limiter" '
        "which is not configured; did you mean memory_limiter?",
        "receivers::otlp/none::protocols::http::middlewares[0]::id: is missing",
    ]
    lines = [re.search(r":(\d+): ", one) for one in found]
    assert [one and one[1] for one in lines] == ["13", "14", "15", "16"]


def test_storages_of_queues_are_extensions_that_can_be_some() -> None:
    found = problems(
        """
  file_storage: {directory: /tmp}
receivers: {otlp: {protocols: {grpc: }}}
exporters:
  otlp: {endpoint: "a:1", sending_queue: {storage: filestorage}, compresion: gzip}
  otlp/not: {endpoint: "a:1", sending_queue: {storage: health_check}}
  otlp/idle: {endpoint: "a:1", sending_queue: {storage: file_storage}}
  otlp/off: {endpoint: "a:1", sending_queue: {enabled: false, storage: none}}
  otlp/unused: {endpoint: "a:1", sending_queue: {storage: none}}
service:
  extensions: [health_check]
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [otlp, otlp/not, otlp/idle, otlp/off]
"""
    )
    assert [one.split(": ", 1)[1] for one in found] == [
        "exporters::otlp::compresion: unknown option; did you mean compression?",
        "exporters::otlp::sending_queue::storage: references extension "
        '"filestorage" which is not configured; did you mean file_storage?',
        'exporters::otlp/not::sending_queue::storage: extension "health_check" is not a '
        "storage extension",
        "exporters::otlp/idle::sending_queue::storage: references extension "
        '"file_storage": add it to service::extensions',
    ]


def test_of_an_extension_that_is_wrong_one_mistake_is_reported() -> None:
    (problem,) = problems(
        """
  bearertokenauth/bad: {token: [x]}
receivers: {otlp: {protocols: {grpc: {auth: {authenticator: bearertokenauth/bad}}}}}
exporters: {otlp: {endpoint: "a:1"}}
"""
        + pipeline("bearertokenauth/bad")
    )
    assert "bearertokenauth/bad::token" in problem


def test_secrets_are_not_printed() -> None:
    config = load(
        [
            f"""yaml:{HEAD}
  basicauth: {{htpasswd: {{inline: "a:hunter2"}}}}
  basicauth/client: {{client_auth: {{username: a, password: hunter2}}}}
  headers_setter: {{headers: [{{key: a, value: hunter2}}]}}
  oauth2client:
    client_id: a
    client_secret: hunter2
    token_url: https://a
    endpoint_params: {{assertion: hunter2}}
receivers: {{otlp: {{protocols: {{grpc: }}}}}}
exporters: {{otlp: {{endpoint: "a:1"}}}}
{pipeline()}"""
        ]
    )
    shown = render(config)
    assert "hunter2" not in shown + repr(config)
    assert shown.count("[REDACTED]") == 7
    assert render(config, "unredacted").count("hunter2") == 7


def test_another_extension_is_not_meant() -> None:
    """db_storage is the Collector's: file_storage is not what its name was a slip for."""
    found = problems(
        f"""
  file_storage: {{directory: /tmp}}
receivers: {{otlp: {{protocols: {{grpc: }}}}}}
exporters: {{otlp: {{endpoint: "a:1", sending_queue: {{storage: db_storage}}}}}}
{pipeline("file_storage")}"""
    )
    (one,) = found
    assert one.endswith('references extension "db_storage" which is not configured')
