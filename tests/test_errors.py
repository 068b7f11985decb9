"""Errors carry what their readers need."""

from k8strace.errors import (
    ConfigError,
    MalformedPayloadError,
    OptionError,
    RefusedError,
    RejectedError,
)


def test_texts() -> None:
    assert str(ConfigError(["a: wrong", "b: wrong"])) == "a: wrong\nb: wrong"
    malformed = MalformedPayloadError("varint is too long", 17)
    assert str(malformed) == "varint is too long at byte 17"
    assert (malformed.reason, malformed.offset) == ("varint is too long", 17)
    assert isinstance(malformed, ValueError)
    assert RefusedError("full").retry_after is None
    assert RefusedError("full", 0.5).retry_after == 0.5
    rejected = RejectedError("no", "queue_full", about_data=False)
    assert (rejected.reason, rejected.about_data) == ("queue_full", False)
    assert RejectedError("no").reason == "permanent_error"


def test_an_option_is_named_by_its_whole_path() -> None:
    error = OptionError("key_file", "cannot read a: no").below("tls").below("exporters::a")
    assert error.problems == ["exporters::a::tls::key_file: cannot read a: no"]
    assert isinstance(error, ConfigError)
