"""The small HTTP server listens, answers, and says why it can't."""

import asyncio
import socket

import aiohttp
import pytest

from k8strace._http1 import Request
from k8strace.net import http_server
from k8strace.net.http_server import HTTPServer
from k8strace.net.messages import Response, text_response
from tests.support.descriptors import open_descriptors


async def hello(request: Request) -> Response:
    return text_response(200, "hello")


async def test_answers_only_its_paths_and_methods() -> None:
    server = HTTPServer({"/hello": hello})
    await server.start("127.0.0.1", 0)
    url = f"http://{server.address}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/hello") as response:
            assert (response.status, await response.text()) == (200, "hello")
        async with session.get(f"{url}/other") as response:
            assert response.status == 404
        async with session.post(f"{url}/hello", data=b"x" * 10_000) as response:
            assert response.status == 405
    await server.stop()
    await server.stop()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{url}/hello")


async def test_a_path_ending_in_a_slash_has_all_below_it() -> None:
    server = HTTPServer({"/": hello})
    await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        for path in ("/", "/healthz", "/a/b?c={d}"):
            async with session.get(f"http://{server.address}{path}") as response:
                assert (response.status, await response.text()) == (200, "hello")
        async with session.head(f"http://{server.address}/") as response:
            assert (response.status, await response.text()) == (200, "")
    await server.stop()


async def test_a_port_in_use_is_named() -> None:
    first, second = HTTPServer({"/": hello}), HTTPServer({"/": hello})
    await first.start("127.0.0.1", 0)
    port = int(first.address.rpartition(":")[2])
    with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: ") as caught:
        await second.start("127.0.0.1", port)
    assert str(caught.value).endswith("Address already in use")
    await first.stop()


async def test_a_name_that_does_not_resolve_is_named() -> None:
    server = HTTPServer({"/": hello})
    with pytest.raises(OSError, match=r"cannot listen on no\.such\.name\.invalid:0"):
        await server.start("no.such.name.invalid", 0)


async def test_who_hangs_on_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 4)
    server = HTTPServer({"/": hello})
    await server.start("127.0.0.1", 0)
    host, _, port = server.address.rpartition(":")
    idle = [await asyncio.open_connection(host, int(port)) for _ in range(9)]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{server.address}/") as response:
            assert (response.status, await response.text()) == (200, "hello")
    # The oldest have been let go, and the end of the server lets go of the rest.
    assert await asyncio.wait_for(idle[0][0].read(), 20) == b""
    await server.stop()
    for reader, writer in idle:
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def test_connections_that_come_together_are_bounded_as_well() -> None:
    found: list[int] = []

    async def count(request: Request) -> Response:
        found.append(len(open_descriptors()))
        return await hello(request)

    server = HTTPServer({"/": count})
    await server.start("127.0.0.1", 0)
    host, _, port = server.address.rpartition(":")
    async with aiohttp.ClientSession() as session:
        # The loop does not run meanwhile: it finds them all at once.
        idle = [socket.create_connection((host, int(port))) for _ in range(500)]
        before = len(open_descriptors())
        async with session.get(f"http://{server.address}/") as response:
            assert await response.text() == "hello"
    await server.stop()
    for one in idle:
        one.close()
    # Beside these the client has some.
    assert found[0] - before <= http_server.MAX_CONNECTIONS + 10


async def test_what_is_no_http_is_a_matter_of_its_sender(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = HTTPServer({"/": hello})
    await server.start("127.0.0.1", 0)
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\nHost: test\r\nAuthorization: hunter2\x01\r\n\r\n")
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    await server.stop()
    assert not caplog.text


async def test_a_handler_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: Request) -> Response:
        raise ValueError("a defect")

    server = HTTPServer({"/": fail})
    await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{server.address}/") as response:
            assert response.status == 500
    await server.stop()
    assert "ValueError: a defect" in caplog.text
