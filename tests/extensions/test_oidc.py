"""oidc against an issuer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from k8strace.auth import Verdict
from k8strace.errors import RefusedError
from k8strace.extensions.oidc import OIDC
from tests.support.auth import extension
from tests.support.issuer import IssuerPeer
from tests.support.jwt import jwk


@asynccontextmanager
async def checking(**values: Any) -> AsyncIterator[tuple[OIDC, IssuerPeer]]:
    async with IssuerPeer() as peer:
        one = extension(OIDC, issuer_url=peer.url, **{"audience": "traces"} | values)
        await one.start()
        try:
            yield one, peer
        finally:
            await one.stop(0)


async def test_a_token() -> None:
    async with checking() as (one, peer):
        token = peer.token()
        assert one.recall(token) is None
        assert await one.ask(token) == Verdict("ann")
        assert one.recall(token) == Verdict("ann")
        assert len(peer.got) == 2
        bad = await one.ask(peer.token(aud="other"))
        assert bad.denial == "the token is for another audience, 'other'"
        assert len(peer.got) == 2


async def test_claims() -> None:
    async with checking(username_claim="name", groups_claim="groups") as (one, peer):
        token = peer.token(name="Ann", groups=["a", 5])
        assert await one.ask(token) == Verdict("Ann", groups=("a", "5"))
        assert await one.ask(peer.token(name="Ann", groups="a")) == Verdict(
            "Ann", groups=("a",)
        )
        for more, text in (
            ({"groups": []}, "claim 'name' is no name"),
            ({"name": 5, "groups": []}, "claim 'name' is no name"),
            ({"name": "Ann"}, "no claim 'groups'"),
        ):
            assert text in str((await one.ask(peer.token(**more))).denial)


async def test_the_audience_can_be_ignored() -> None:
    async with checking(audience="", ignore_audience=True) as (one, peer):
        assert await one.ask(peer.token(aud="any")) == Verdict("ann")


@pytest.mark.parametrize("credential", [b"Basic x", b"Bearer", b"Bearer \xff"])
async def test_what_is_no_token_is_nobody_at_once(credential: bytes) -> None:
    async with checking() as (one, peer):
        verdict = one.recall(credential)
        assert verdict is not None
        assert verdict.denial
        assert (await one.ask(credential)).denial
        assert peer.got == []


async def test_a_key_that_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8strace.extensions._issuer.ASK_EVERY", 0.0)
    async with checking() as (one, peer):
        assert await one.ask(peer.token()) == Verdict("ann")
        token = peer.token("EdDSA", "two")
        assert "a key that the issuer hasn't" in str((await one.ask(token)).denial)
        assert one.recall(token) is None
        peer.keys.append(jwk("EdDSA", kid="two"))
        assert await one.ask(token) == Verdict("ann")


async def test_while_the_issuer_is_down() -> None:
    async with checking() as (one, peer):
        peer.status = 500
        with pytest.raises(RefusedError, match="cannot be asked"):
            await one.ask(peer.token())
        # Who cannot be anybody needs no keys.
        assert (await one.ask(peer.token(exp=5))).denial == "the token has expired"
        peer.status = 0
        assert await one.ask(peer.token()) == Verdict("ann")


async def test_several_providers() -> None:
    async with IssuerPeer() as first, IssuerPeer() as second:
        one = extension(
            OIDC,
            attribute="X-Token",
            providers=[
                {"issuer_url": first.url, "audience": "traces"},
                {"issuer_url": second.url, "audience": "other", "username_claim": "name"},
            ],
        )
        await one.start()
        assert one.header == "x-token"
        assert await one.ask(first.token()) == Verdict("ann")
        assert await one.ask(second.token(aud="other", name="bob")) == Verdict("bob")
        assert (await one.ask(second.token())).denial
        for iss in ("https://third", 5, None):
            assert "not configured" in str((await one.ask(first.token(iss=iss))).denial)
        await one.stop(0)
