"""Every component that the gateway knows: kind, type names, class.

One line adds a component. The first name is the collector's present one; the others are
older spellings of it, accepted and kept as they were written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from k8strace.component import Component
from k8strace.exporters.debug import Debug
from k8strace.exporters.file import File
from k8strace.exporters.nop import Nop
from k8strace.exporters.otlp_grpc import OtlpGrpc
from k8strace.extensions.basicauth import BasicAuth
from k8strace.extensions.bearertokenauth import BearerTokenAuth
from k8strace.extensions.file_storage import FileStorage
from k8strace.extensions.headers_setter import HeadersSetter
from k8strace.extensions.health_check import HealthCheck
from k8strace.extensions.k8s_token_review import TokenReview
from k8strace.extensions.memory_limiter import MemoryLimiter as MemoryLimiterExtension
from k8strace.extensions.oauth2client import OAuth2Client
from k8strace.extensions.oidc import OIDC
from k8strace.extensions.zpages import ZPages
from k8strace.processors.batch import Batch
from k8strace.processors.memory_limiter import MemoryLimiter
from k8strace.processors.probabilistic_sampler import ProbabilisticSampler
from k8strace.receivers.otlp import OTLP

Table = Mapping[str, Mapping[str, type[Component[Any]]]]


def _table(*rows: tuple[type[Component[Any]], tuple[str, ...]]) -> Table:
    table: dict[str, dict[str, type[Component[Any]]]] = {
        "receivers": {},
        "processors": {},
        "exporters": {},
        "extensions": {},
    }
    for component, aliases in rows:
        for name in (component.type_name, *aliases):
            if name in table[component.kind]:
                raise ValueError(f"two {component.kind} are called {name}")
            table[component.kind][name] = component
    return table


COMPONENTS = _table(
    (OTLP, ()),
    (MemoryLimiter, ()),
    (ProbabilisticSampler, ()),
    (Batch, ()),
    (OtlpGrpc, ("otlp",)),
    (Debug, ("logging",)),
    (File, ()),
    (Nop, ()),
    (HealthCheck, ()),
    (ZPages, ()),
    (FileStorage, ()),
    (MemoryLimiterExtension, ()),
    (BearerTokenAuth, ()),
    (BasicAuth, ()),
    (TokenReview, ()),
    (HeadersSetter, ()),
    (OIDC, ()),
    (OAuth2Client, ()),
)
