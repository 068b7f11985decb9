"""The native engine: nghttp2 driven by the event loop, in C where bytes move."""

from k8strace.grpc.native_client import Client
from k8strace.grpc.native_server import Server

__all__ = ["Client", "Server"]
