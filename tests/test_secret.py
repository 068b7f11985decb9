"""A secret is shown by nothing but `reveal`."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint

import msgspec
import pytest

from k8strace.component import Config
from k8strace.secret import REDACTED, Secret


class Login(Config, frozen=True, kw_only=True):
    user: str = ""
    password: Secret = Secret()


TEXT = "hunter2"


def test_nothing_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(TEXT)
    login = Login(user="a", password=secret)
    logging.getLogger("k8strace").error("%s %r %s %s", secret, secret, login, [secret])
    shown = [
        str(secret),
        repr(secret),
        f"{secret} {secret!r} {secret:}",
        "{} {}".format(secret, login),  # noqa: UP032
        pprint.pformat({"login": login}),
        str(ValueError(secret)),
        json.dumps({"a": login}, default=str),
        caplog.text,
    ]
    for text in shown:
        assert TEXT not in text
        assert REDACTED in text
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        msgspec.json.encode(login)
    with pytest.raises(TypeError):
        secret + ""  # type: ignore[operator]
    assert secret.reveal() == TEXT


def test_an_empty_one_shows_that_it_is() -> None:
    assert (str(Secret()), repr(Secret())) == ("", "Secret('')")
    assert not Secret()
    assert Secret(TEXT)


def test_equality() -> None:
    assert Secret(TEXT) == Secret(TEXT) == copy.deepcopy(Secret(TEXT))
    assert Secret(TEXT) != Secret()
    assert Secret(TEXT) != TEXT
    assert len({Secret(TEXT), Secret(TEXT), Secret()}) == 2
    assert pickle.loads(pickle.dumps(Secret(TEXT))) == Secret(TEXT)
