"""k8strace: an OTLP trace gateway for the spans of Kubernetes' own components."""

from importlib.metadata import version

__version__ = version("k8strace")
