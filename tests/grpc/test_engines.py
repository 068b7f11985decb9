from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from k8strace.grpc import grpcio, native
from k8strace.grpc.engines import Engine, client_factory, server_factory


def test_engines_by_name() -> None:
    assert get_args(Engine) == ("native", "grpcio")
    assert server_factory("native") is native.Server
    assert client_factory("native") is native.Client
    assert server_factory("grpcio") is grpcio.Server
    assert client_factory("grpcio") is grpcio.Client


@pytest.mark.slow
def test_an_engine_that_nobody_names_is_not_loaded() -> None:
    script = (
        "import sys; from k8strace.grpc.engines import server_factory; "
        "server_factory('native'); print('grpc' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
