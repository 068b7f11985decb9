"""Configurations for whole processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from tests.support.gateway import GatewayProcess

Start = Callable[..., GatewayProcess]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Makes a gateway that sends to a backend; the keywords go over its exporter's."""

    def make(
        backend: str,
        *arguments: str,
        processors: dict[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        **exporter: object,
    ) -> GatewayProcess:
        processors = {"batch": {"timeout": "20ms"}} if processors is None else processors
        config = {
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": "127.0.0.1:0"}}}},
            "processors": processors,
            "exporters": {
                "otlp": {
                    "endpoint": f"http://{backend}",
                    "retry_on_failure": {
                        "initial_interval": "50ms",
                        "max_interval": "200ms",
                    },
                    **exporter,
                }
            },
            "extensions": {"health_check": {"endpoint": "127.0.0.1:0"}},
            "service": {
                "extensions": ["health_check"],
                "telemetry": {
                    "metrics": {
                        "readers": [
                            {
                                "pull": {
                                    "exporter": {
                                        "prometheus": {"host": "127.0.0.1", "port": 0}
                                    }
                                }
                            }
                        ]
                    }
                },
                "pipelines": {
                    "traces": {
                        "receivers": ["otlp"],
                        "processors": list(processors),
                        "exporters": ["otlp"],
                    }
                },
            },
        }
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump(config))
        out = tmp_path / "out.txt"
        return GatewayProcess("--config", str(path), *arguments, out=out, env=env)

    return make
