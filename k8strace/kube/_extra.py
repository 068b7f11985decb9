"""What to install where the OpenTelemetry SDK is missing."""

from __future__ import annotations


def missing(error: ImportError) -> ModuleNotFoundError:
    """The error to raise in place of `error`, which an import of OpenTelemetry raised."""
    return ModuleNotFoundError(
        f"it needs the OpenTelemetry SDK and its OTLP exporter ({error}): "
        "pip install k8strace[kube]",
        name=error.name,
        path=error.path,
    )
