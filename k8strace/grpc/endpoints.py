"""Where servers listen and who their peers are, whatever the engine."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import stat
from contextlib import suppress
from urllib.parse import unquote

from k8strace.addresses import host_of as host_of  # re-exported
from k8strace.addresses import join_address, listen_address, resolved

UNIX_PEER = "unix:"
MAX_UNIX_PATH = 107  # sockaddr_un.sun_path, without the final zero
GRPC_PORT = (
    "it speaks HTTP/1.1, and this port is gRPC's: have it use the port of OTLP/HTTP "
    "(4318), or the protocol grpc"
)
HTTP_PORT = (
    "it speaks gRPC, and this port is OTLP/HTTP's: have it use the port of gRPC (4317), or "
    "the protocol http/protobuf"
)
_PROBE_TIMEOUT = 1.0
_HTTP1 = re.compile(rb"(?!PRI )[A-Z]{3,10} [/*h]")


def check_endpoint(endpoint: str, transport: str) -> None:
    """Raises ValueError, which names the endpoint, for one that no server can take."""
    if transport == "unix":
        unix_path(endpoint)
    else:
        listen_address(endpoint)


def unix_path(endpoint: str) -> str:
    """The socket's path as asyncio takes it; of an abstract one with a leading zero byte.

    Takes a path, `unix:path`, `unix:///path`, and for abstract sockets `@name` or
    `unix-abstract:name`.
    """
    if endpoint.startswith("@"):
        path = "\0" + endpoint[1:]
    elif endpoint.startswith("unix-abstract:"):
        path = "\0" + endpoint.removeprefix("unix-abstract:")
    else:
        path = endpoint.removeprefix("unix:").removeprefix("//")
    if not path.strip("\0"):
        raise ValueError(f"endpoint {endpoint!r} is not the path of a socket")
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise ValueError(f"endpoint {endpoint!r} is longer than {MAX_UNIX_PATH} bytes")
    return path


def show_unix(path: str) -> str:
    """`path` as an endpoint that a client can dial."""
    return f"unix-abstract:{path[1:]}" if path.startswith("\0") else f"unix:{path}"


def claim_unix(path: str) -> None:
    """Make `path` free to bind: a socket that nobody listens on is removed.

    Raises OSError that names the path when somebody listens there, or it is no socket.
    """
    where = show_unix(path)
    found = None
    if not path.startswith("\0"):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise OSError(
                errno.EEXIST, f"cannot listen on {where}: the file exists and is no socket"
            )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if found is not None:
                try:
                    _remove(path, found)
                except OSError as error:
                    raise cannot_listen(where, error.errno) from error
            return
        except TimeoutError:
            pass  # its backlog is full: somebody listens
    raise cannot_listen(where, errno.EADDRINUSE)


async def check_free(host: str, port: int) -> None:
    """Raises OSError that names the address when it cannot be bound.

    An engine that cannot say why binding failed is asked after this. One of several
    addresses of a name may fail, but none may be in use.
    """
    where = join_address(host, port)
    try:
        found = await resolved(host, port, socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {where}: {error}") from error
    failures: list[OSError] = []
    for family, kind, protocol, _, address in found:
        try:
            _probe(family, kind, protocol, address)
        except OSError as error:
            failures.append(error)
    for failure in failures:
        if failure.errno == errno.EADDRINUSE or len(failures) == len(found):
            raise cannot_listen(where, failure.errno)


def _probe(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> None:
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)


async def listen_tcp(
    host: str, port: int, *, reuse_port: bool = False
) -> list[socket.socket]:
    """Sockets bound to all addresses of `host`, with one port where `port` is 0.

    An empty host is all addresses of the machine. Raises OSError that names the address;
    one of several addresses of a name may fail, but none may be in use.
    """
    where = join_address(host, port)
    if host:
        try:
            found = await resolved(host, port, socket.AI_PASSIVE)
        except socket.gaierror as error:
            raise OSError(
                errno.EADDRNOTAVAIL, f"cannot listen on {where}: {error}"
            ) from error
        places = list(dict.fromkeys((one[0], one[4][0]) for one in found))
    else:
        both = socket.has_dualstack_ipv6()
        places = [(socket.AF_INET6, "::") if both else (socket.AF_INET, "0.0.0.0")]
    bound: list[socket.socket] = []
    failures: list[OSError] = []
    for family, address in places:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(host)))
            sock.setblocking(False)
            sock.bind((address, port or (bound[0].getsockname()[1] if bound else 0)))
            bound.append(sock)
        except OSError as error:
            sock.close()
            failures.append(error)
    for failure in failures:
        if failure.errno == errno.EADDRINUSE or not bound:
            for sock in bound:
                sock.close()
            raise cannot_listen(where, failure.errno)
    return bound


def _remove(path: str, found: os.stat_result) -> None:
    """Remove the file at `path` if it is still the one that was found. Raises OSError."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), found):
            os.unlink(path)


class UnixSocket(socket.socket):
    """A listening Unix socket that removes its file when it is closed.

    It leaves a file that another process has put in its place: as long as the socket is
    open, no other file can have its inode. Duplicates of the socket remove nothing.
    """

    _file: tuple[str, os.stat_result] | None = None

    def bind(self, path: str) -> None:  # type: ignore[override]
        """Raises OSError."""
        super().bind(path)
        if not path.startswith("\0"):
            self._file = (path, os.lstat(path))

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # such as in a directory that is read-only by now
                _remove(*file)
        super().close()


def listen_unix(path: str) -> UnixSocket:
    """A socket bound to `path`, whose file goes when it is closed. Raises OSError."""
    sock = UnixSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise cannot_listen(show_unix(path), error.errno) from error
    return sock


def bound_address(endpoint: str, sock: socket.socket) -> str:
    """Where clients find `sock`: by the host that was asked for, the port it has."""
    if sock.family == socket.AF_UNIX:
        return show_unix(unix_path(endpoint))
    return join_address(listen_address(endpoint)[0], sock.getsockname()[1])


def cannot_listen(where: str, number: int | None) -> OSError:
    """The error that says where, and why."""
    reason = os.strerror(number) if number else "unknown error"
    return OSError(number or errno.EIO, f"cannot listen on {where}: {reason}")


def peer_of_grpc(uri: str) -> str:
    """The peer that gRPC's core names by a URI, as `Origin.peer` has it."""
    scheme, _, address = uri.partition(":")
    if scheme.startswith("unix"):
        return UNIX_PEER
    return unquote(address) or "unknown"


def peer_of_socket(name: object) -> str:
    """The peer from a socket's address, as `Origin.peer` has it."""
    if isinstance(name, tuple) and len(name) >= 2:
        return join_address(str(name[0]).removeprefix("::ffff:"), name[1])
    return UNIX_PEER


def speaks_http1(data: bytes | bytearray) -> bool:
    """Whether the first bytes of a connection are a request's of HTTP/1."""
    return _HTTP1.match(data) is not None


def speaks_http2(transport: asyncio.BaseTransport) -> bool:
    """Whether a connection that is up may carry HTTP/2; over TLS, ALPN has to say so."""
    tls = transport.get_extra_info("ssl_object")
    return tls is None or tls.selected_alpn_protocol() == "h2"


def end_writing(transport: asyncio.Transport) -> bool:
    """Let the peer close; False where that cannot be waited for.

    What a peer sends to a socket that is closed resets the connection, and then it does not
    get what was sent before.
    """
    if not transport.can_write_eof():
        transport.close()
        return False
    try:
        transport.write_eof()
    except OSError:  # the peer has gone already, and the loop doesn't know yet
        transport.abort()
        return False
    return True
