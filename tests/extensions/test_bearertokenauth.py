"""bearertokenauth: who has one of its tokens, and what it shows itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k8strace.auth import Verdict
from k8strace.errors import ConfigError
from k8strace.extensions import _files
from k8strace.extensions.bearertokenauth import BearerTokenAuth
from tests.support.auth import extension

HEADERS = (("x-tenant", "blue"), ("authorization", "other"))


def bearer(**values: Any) -> BearerTokenAuth:
    one = extension(BearerTokenAuth, **values)
    assert isinstance(one, BearerTokenAuth)
    return one


def may(one: BearerTokenAuth, credential: bytes) -> bool:
    return one.server().recall(credential) == Verdict()


def test_the_defaults_are_the_collectors() -> None:
    one = bearer(token="x")
    assert (one.header, one.challenge) == ("authorization", "Bearer")
    assert one.config.sides == ("server", "client")
    assert one.client().needs_tls


def test_all_tokens_are_good() -> None:
    one = bearer(tokens=["first", "second"])
    assert may(one, b"Bearer first")
    assert may(one, b"Bearer second")
    for wrong in (b"first", b"Bearer ", b"Bearer", b"Bearer third", b"\xff\0", b"x" * 9999):
        assert not may(one, wrong)


async def test_asking_says_the_same() -> None:
    one = bearer(token="x")
    assert await one.server().ask(b"Bearer x") == Verdict()
    assert (await one.server().ask(b"Bearer y")).denial == "scheme or token does not match"


@pytest.mark.parametrize(("scheme", "sent"), [("Token", b"Token x"), ("", b"x")])
def test_another_scheme_and_header(scheme: str, sent: bytes) -> None:
    one = bearer(token="x", scheme=scheme, header="X-Api-Key")
    assert one.header == "x-api-key"
    assert may(one, sent)
    assert not may(one, b"Bearer x")


async def test_a_client_sends_the_first() -> None:
    one = bearer(tokens=["first", "second"])
    sent = await one.client().metadata(HEADERS, None)
    assert sent == (("x-tenant", "blue"), ("authorization", "Bearer first"))
    assert await one.client().metadata(HEADERS, None) is sent


async def test_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_files, "CHECK_EVERY", 0.0)
    path = tmp_path / "tokens"
    path.write_text("first\n\n  second \r\n")
    one = bearer(filename=str(path), token="ignored")
    await one.start()
    assert "the configured tokens are ignored" in caplog.text
    assert [may(one, b"Bearer " + name) for name in (b"first", b"second")] == [True] * 2
    assert not any(may(one, b"Bearer " + name) for name in (b"ignored", b""))
    path.write_text("third")
    assert may(one, b"Bearer third")
    assert not may(one, b"Bearer first")
    assert dict(await one.client().metadata((), None))["authorization"] == "Bearer third"
    path.write_text("hunter2\nhünter2")
    assert may(one, b"Bearer third")
    assert "line 2 has characters" in caplog.text
    assert "nter2" not in caplog.text
    await one.stop(0)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "has no token in it"),
        (b"\n \n", "has no token in it"),
        (b"ok\n\0\x01", "line 2 has characters that are not printable ASCII"),
        (None, "No such file"),
    ],
)
async def test_a_file_that_is_wrong(
    tmp_path: Path, content: bytes | None, text: str
) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=text):
        await bearer(filename=str(path)).start()


def test_a_secret_is_nowhere() -> None:
    one = bearer(tokens=["hunter2"])
    assert "hunter2" not in repr(one.config)
    for verdict in (one.recall(b"Bearer hunter2"), one.recall(b"Bearer hunter3")):
        assert "hunter" not in repr(verdict)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Token"])
def test_the_scheme_is_known_in_any_case_behind_any_spaces(scheme: str) -> None:
    one = extension(BearerTokenAuth, token="a b", scheme=scheme)
    for spelled in (scheme, scheme.upper(), scheme.lower()):
        for spaces in (" ", "   "):
            assert one.recall(f"{spelled}{spaces}a b".encode()).denial is None
    for wrong in (
        "a b",
        f"{scheme}a b",
        f"{scheme} a  b",
        f"{scheme}\ta b",
        f"{scheme} A b",
    ):
        assert one.recall(wrong.encode()).denial is not None


def test_a_token_without_a_scheme_is_compared_as_it_is() -> None:
    one = extension(BearerTokenAuth, token="a b", scheme="")
    assert one.recall(b"a b").denial is None
    assert one.recall(b"A b").denial is not None
    assert one.recall(b"a  b").denial is not None
