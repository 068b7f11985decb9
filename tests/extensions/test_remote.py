"""Servers that are asked about credentials, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from aiohttp import web

from k8strace.errors import RefusedError
from k8strace.extensions._remote import Answer, Remote, check_url, trusting
from tests.support.certificates import Authority
from tests.support.remote import CA, Got, HTTPPeer, json

PEM = Path(CA).read_bytes()
LOG = logging.LoggerAdapter(logging.getLogger("k8strace"), {})


@pytest.mark.parametrize(
    "url",
    [
        "https://a",
        "https://a:6443/x",
        "http://localhost:8001",
        "http://127.0.0.1",
        "http://[::1]:1",
    ],
)
def test_urls_that_can_be_asked(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a:1",
        "ftp://a",
        "https://",
        "http://10.0.0.1",
        "http://a",
        "https://a:b",
        "https://[",
        "https://u:hunter2@a",
        "https://u:hunter2@a:b",
        "ftp://u:hunter2@a",
    ],
)
def test_urls_that_cannot(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|unencrypted") as caught:
        check_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("pem", [b"", b"x", b"\xff"])
def test_what_has_no_certificates(pem: bytes) -> None:
    with pytest.raises(ValueError, match="no certificates"):
        trusting(pem)


async def ok(got: Got) -> web.Response:
    return json({"a": 1}, 200, **{"Retry-After": "7"})


async def test_an_answer() -> None:
    async with HTTPPeer(ok) as peer:
        remote = Remote("the peer", LOG, 20.0)
        answer = await remote.ask("POST", peer.url, headers={"x": "y"}, data=b"body")
        assert answer == Answer(200, b'{"a": 1}', 7.0)
        assert remote.decode(answer, dict[str, int]) == {"a": 1}
        (got,) = peer.got
        assert (got.method, got.headers["x"], got.body) == ("POST", "y", b"body")
        await remote.close()
        await remote.close()


async def test_over_tls() -> None:
    async with HTTPPeer(ok, tls=True) as peer:
        good = Remote("the peer", LOG, 20.0, lambda: trusting(PEM))
        assert (await good.ask("GET", peer.url)).status == 200
        bad = Remote("the peer", LOG, 20.0)
        with pytest.raises(RefusedError, match="the peer cannot be asked"):
            await bad.ask("GET", peer.url)
        await good.close()
        await bad.close()


async def test_what_goes_wrong_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with HTTPPeer(ok) as peer:
        pass
    remote = Remote("the peer", LOG, 20.0)
    for _ in range(3):
        with pytest.raises(RefusedError) as caught:
            await remote.ask("GET", peer.url)
        assert caught.value.retry_after == 1.0
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("the peer: ")
    await remote.close()


async def slow(got: Got) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


async def large(got: Got) -> web.Response:
    return web.Response(body=bytes(2 << 20))


async def elsewhere(got: Got) -> web.Response:
    return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})


async def test_one_that_is_slow(caplog: pytest.LogCaptureFixture) -> None:
    async with HTTPPeer(slow) as peer:
        remote = Remote("the peer", LOG, 0.05)
        with pytest.raises(RefusedError):
            await remote.ask("GET", peer.url)
        assert "no answer within 0.05 s" in caplog.text
        await remote.close()


async def test_one_that_says_too_much(caplog: pytest.LogCaptureFixture) -> None:
    async with HTTPPeer(large) as peer:
        remote = Remote("the peer", LOG, 20.0)
        with pytest.raises(RefusedError):
            await remote.ask("GET", peer.url)
        assert "more than 1048576 bytes" in caplog.text
        await remote.close()


async def test_credentials_follow_no_redirect() -> None:
    async with HTTPPeer(elsewhere) as peer:
        remote = Remote("the peer", LOG, 20.0)
        assert (await remote.ask("GET", peer.url)).status == 302
        await remote.close()


@pytest.mark.parametrize("body", [b"", b"x", b"\xff", b"[]"])
def test_answers_that_cannot_be_read(body: bytes) -> None:
    remote = Remote("the peer", LOG, 20.0)
    with pytest.raises(RefusedError):
        remote.decode(Answer(200, body, None), dict[str, int])


async def test_an_authority_with_nothing_but_a_name(tmp_path: Path) -> None:
    """Go's programs trust it; Python's default context doesn't from 3.13 on."""
    authority = Authority(tmp_path, bare=True)
    pair = authority.issue()
    async with HTTPPeer(ok, tls=pair) as peer:
        remote = Remote(
            "the peer", LOG, 20.0, lambda: trusting(authority.cert.read_bytes())
        )
        assert (await remote.ask("GET", peer.url)).status == 200
        await remote.close()


async def test_the_servers_own_certificate_is_trusted_as_it_stands(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue()
    async with HTTPPeer(ok, tls=pair) as peer:
        remote = Remote("the peer", LOG, 20.0, lambda: trusting(pair.cert.read_bytes()))
        assert (await remote.ask("GET", peer.url)).status == 200
        await remote.close()
