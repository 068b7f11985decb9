"""Addresses as the collector writes them: host:port, :port, [v6]:port."""

from __future__ import annotations


def listen_address(endpoint: str) -> tuple[str, int]:
    """Host and port of `endpoint`; an empty host means all addresses.

    Raises ValueError that names the endpoint.
    """
    host, colon, port = endpoint.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"endpoint {endpoint!r} is not host:port (such as localhost:4317)")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise ValueError(f"endpoint {endpoint!r}: write an IPv6 address as [address]:port")
    return (host[1:-1] if bracketed else host), int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of `listen_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
