"""A text that is shown nowhere: a token, a password, a private key."""

from __future__ import annotations

REDACTED = "[REDACTED]"


class Secret:
    """The type of an option whose value is in no error, log line, repr or printed
    configuration; `reveal` is the only way to it.

    Formatting one gives `REDACTED`, or nothing where it is empty. In a configuration it
    takes what a string takes.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """The text, for whom it is meant."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __str__(self) -> str:
        return REDACTED if self._text else ""

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, (self._text,)
