"""Issuers: their keys are asked for when they are needed, and not more often."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from k8strace.errors import ConfigError, RefusedError
from k8strace.extensions import _issuer
from k8strace.extensions._issuer import Issuer, parse_keys
from k8strace.extensions._jwt import Key
from tests.support.issuer import IssuerPeer
from tests.support.jwt import jwk
from tests.support.pipeline import cancel
from tests.support.remote import CA

LOG = logging.LoggerAdapter(logging.getLogger("k8strace"), {})


async def test_keys_are_asked_for_once() -> None:
    async with IssuerPeer(tls=True) as peer:
        issuer = Issuer(peer.url, CA, "", LOG)
        issuer.load()
        found = await asyncio.gather(*(issuer.keys() for _ in range(5)))
        assert [one.id for one in found[0]] == ["one"]
        assert await issuer.keys(again=True) is found[0]
        assert len(peer.got) == 2
        await issuer.close()


async def test_and_again_when_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(_issuer, "monotonic", lambda: now)
    async with IssuerPeer() as peer:
        issuer = Issuer(peer.url, "", "", LOG)
        await issuer.keys()
        peer.keys.append(jwk("EdDSA", kid="two"))
        now += 29.0
        assert len(await issuer.keys(again=True)) == 1
        now += 1.0
        assert len(await issuer.keys()) == 1
        assert len(await issuer.keys(again=True)) == 2
        now += 3600.0
        peer.status = 500
        assert len(await issuer.keys()) == 2
        await issuer.close()


async def test_keys_that_are_known_do_not_wait_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(_issuer, "monotonic", lambda: now)
    async with IssuerPeer() as peer:
        issuer = Issuer(peer.url, "", "", LOG)
        known = await issuer.keys()
        gate = asyncio.Event()
        ask = issuer._ask

        async def hang() -> Sequence[Key]:
            await gate.wait()
            return await ask()

        monkeypatch.setattr(issuer, "_ask", hang)
        peer.keys.append(jwk("EdDSA", kid="two"))
        now += 30.0
        strangers = [asyncio.create_task(issuer.keys(again=True)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await issuer.keys() is known
        await cancel(strangers[0])
        assert not strangers[1].done()
        gate.set()
        assert len(await strangers[1]) == 2
        await issuer.close()


@pytest.mark.parametrize("problem", ["status", "calls_itself", "keys"])
async def test_one_of_no_use(problem: str, caplog: pytest.LogCaptureFixture) -> None:
    wrong: dict[str, object] = {"status": 503, "calls_itself": "https://other", "keys": []}
    async with IssuerPeer() as peer:
        setattr(peer, problem, wrong[problem])
        issuer = Issuer(peer.url, "", "", LOG)
        with pytest.raises(RefusedError, match="cannot be asked"):
            await issuer.keys()
        assert peer.url in caplog.text
        await issuer.close()


async def test_a_file_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(msgspec.json.encode({"keys": [jwk("ES256", kid="file")]}))
    issuer = Issuer("https://nowhere", "", str(path), LOG)
    issuer.load()
    assert [one.id for one in await issuer.keys()] == ["file"]
    path.write_text("{}")
    with pytest.raises(ConfigError, match="has no RSA, EC or Ed25519 key"):
        Issuer("https://nowhere", "", str(path), LOG).load()
    with pytest.raises(ConfigError, match="has no certificates"):
        Issuer("https://nowhere", str(path), "", LOG).load()


def test_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="is no JSON"):
        parse_keys(b"x")
