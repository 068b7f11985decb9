"""basicauth: users with their passwords, and the one that a client is."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from k8strace.auth import Gate, Verdict
from k8strace.errors import ConfigError, UnauthenticatedError
from k8strace.extensions import _files, _verdicts, basicauth
from k8strace.extensions._htpasswd import is_slow, matches_slowly
from k8strace.extensions.basicauth import BasicAuth
from tests.extensions.test_htpasswd import BCRYPT
from tests.support.auth import extension
from tests.support.pipeline import cancel, until

INLINE = "ann:" + BCRYPT.decode() + "\nbob:{SHA}HuhCyGIAJrL+zUp5dPKQqqAYENE=\ncy:plain"


def basic(user: str, password: str, scheme: str = "Basic") -> bytes:
    return f"{scheme} {b64encode(f'{user}:{password}'.encode()).decode()}".encode()


def server(**htpasswd: Any) -> BasicAuth:
    one = extension(BasicAuth, htpasswd=htpasswd)
    assert isinstance(one, BasicAuth)
    return one


async def test_who_has_the_password() -> None:
    one = server(inline=INLINE)
    await one.start()
    gate = Gate(one.server())
    assert one.config.sides == ("server",)
    assert one.recall(basic("ann", "pw")) is None
    assert await gate.admit(basic("ann", "pw")) == Verdict("ann")
    assert one.recall(basic("ann", "pw")) == Verdict("ann")
    assert await gate.admit(basic("ann", "pw", "bAsIc")) == Verdict("ann")
    assert one.recall(basic("cy", "plain")) == Verdict("cy")
    for wrong in (
        basic("ann", "pW"),
        basic("ann", "pw\0"),
        basic("ann", ""),
        basic("cy", "Plain"),
        basic("dan", "pw"),
        basic("ann", "x" * 5000),
        basic("änn", "pw"),
    ):
        with pytest.raises(UnauthenticatedError, match="user or password is wrong"):
            await gate.admit(wrong)
    await one.stop(0)


@pytest.mark.parametrize(
    ("credential", "text"),
    [
        (b"Bearer x", "not Basic"),
        (b"Basic", "not base64"),
        (b"Basic !!!", "not base64"),
        (b"Basic \xff\xfe", "not base64"),
        (b"Basic " + b64encode(b"ann"), "not base64"),
    ],
)
def test_what_is_malformed_is_nobody_at_once(credential: bytes, text: str) -> None:
    verdict = server(inline=INLINE).recall(credential)
    assert verdict is not None
    assert text in str(verdict.denial)


async def test_a_password_that_is_wrong_is_hashed_once() -> None:
    one = server(inline=INLINE)
    wrong = basic("ann", "wrong")
    verdicts = await asyncio.gather(*(one.ask(wrong) for _ in range(20)))
    assert {verdict.denial for verdict in verdicts} == {"user or password is wrong"}
    assert one.recall(wrong) is verdicts[0]
    await one.stop(0)


async def test_a_file_under_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "CHECK_EVERY", 0.0)
    path = tmp_path / "users"
    path.write_text(f"ann:{BCRYPT.decode()}\ncy:other")
    one = server(file=str(path), inline="cy:plain")
    await one.start()
    assert one.recall(basic("cy", "plain")) == Verdict("cy")
    assert await one.ask(basic("ann", "pw")) == Verdict("ann")
    assert one.recall(basic("ann", "pw")) == Verdict("ann")
    path.write_text("dan:plain")
    verdict = one.recall(basic("ann", "pw"))
    assert verdict is not None
    assert verdict.denial
    assert one.recall(basic("dan", "plain")) == Verdict("dan")
    # It was asked about before the file changed.
    assert (await one.ask(basic("ann", "pw"))).denial
    await one.stop(0)


@pytest.mark.parametrize(
    ("content", "text"), [(None, "No such file"), ("ann", "line 1 is not user:hash")]
)
async def test_a_file_that_is_wrong(tmp_path: Path, content: str | None, text: str) -> None:
    path = tmp_path / "users"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=text):
        await server(file=str(path)).start()


def client(**ours: Any) -> BasicAuth:
    one = extension(BasicAuth, client_auth=ours)
    assert isinstance(one, BasicAuth)
    return one


async def shown(one: BasicAuth) -> str:
    metadata = await one.client().metadata((("authorization", "x"),), None)
    ((name, value),) = metadata
    assert name == "authorization"
    assert value.startswith("Basic ")
    return b64decode(value.removeprefix("Basic ")).decode()


async def test_a_client() -> None:
    one = client(username="ann", password="p:w")
    assert one.config.sides == ("client",)
    assert await shown(one) == "ann:p:w"
    assert await one.metadata((), None) is await one.metadata((), None)
    assert "p:w" not in repr(one.config)


async def test_a_client_with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "CHECK_EVERY", 0.0)
    user, password = tmp_path / "user", tmp_path / "password"
    user.write_text("ann\n")
    password.write_text("one\n")
    one = client(username="x", username_file=str(user), password_file=str(password))
    await one.start()
    assert await shown(one) == "ann:one"
    password.write_text("two")
    assert await shown(one) == "ann:two"
    user.write_text("a:b")
    assert await shown(one) == "ann:two"
    user.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        await client(username_file=str(user)).start()


async def test_who_is_no_user_is_hashed_as_a_user_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users = dict(line.split(":") for line in INLINE.split())
    slow = {name: hashed for name, hashed in users.items() if is_slow(hashed.encode())}
    one = server(inline="\n".join(f"{name}:{hashed}" for name, hashed in slow.items()))
    hashed_with: list[bytes] = []

    async def count(password: bytes, hashed: bytes) -> bool:
        hashed_with.append(hashed)
        return await matches_slowly(password, hashed)

    monkeypatch.setattr(basicauth, "matches_slowly", count)
    for number in range(20):
        stranger = basic(f"nobody{number}", "pw")  # which is the password of a user
        for _ in range(2):
            assert one.recall(stranger) is None
            denial = (await one.ask(stranger)).denial
            assert denial == (await one.ask(basic("ann", f"wrong{number}"))).denial
            assert denial == "user or password is wrong"
            del one._verdicts._denied[_verdicts._digest(stranger)]
    assert set(hashed_with) == {hashed.encode() for hashed in slow.values()}
    await one.stop(0)


async def test_a_hash_that_nobody_waits_for_keeps_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = server(inline=INLINE)
    running: list[bytes] = []
    gate = asyncio.Event()

    async def hold(password: bytes, hashed: bytes) -> bool:
        running.append(password)
        await gate.wait()
        return await matches_slowly(password, hashed)

    monkeypatch.setattr(basicauth, "matches_slowly", hold)
    first = asyncio.create_task(one.ask(basic("ann", "first")))
    await until(lambda: running == [b"first"])
    await cancel(first)
    second = asyncio.create_task(one.ask(basic("ann", "pw")))
    for _ in range(10):
        await asyncio.sleep(0)
    assert running == [b"first"]
    gate.set()
    assert await second == Verdict("ann")
    await one.stop(0)


async def test_a_file_without_users_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_files, "CHECK_EVERY", 0.0)
    path = tmp_path / "htpasswd"
    path.write_text("# nobody yet\n")
    one = server(file=str(path))
    await one.start()
    assert caplog.text.count(basicauth.NO_USERS) == 1
    path.write_text(INLINE)
    await until(lambda: one.recall(basic("cy", "plain")) == Verdict("cy"))
    path.write_text("")
    denied = Verdict(denial="user or password is wrong")
    await until(lambda: one.recall(basic("cy", "plain")) == denied)
    assert caplog.text.count(basicauth.NO_USERS) == 2
    await one.stop(0)
